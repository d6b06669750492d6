"""Which broker, with which files, and when first."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from edgetrt.config import BrokerConfig
from edgetrt.errors import ConfigError
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from edgetrt.mqtt.backoff import first_wait_s
from edgetrt.mqtt.places import Places, endpoints, open_to_all
from tests.broker import free_port, running

QUICK = Settings(will_delay_s=0)


async def connected(config: BrokerConfig, client_id: str = "cam-1") -> MqttTransport:
    """A transport that connected once."""
    transport = MqttTransport(config, client_id, settings=QUICK, backoff=Backoff(0.01, 0.05))
    async with transport:
        async for state in transport.states():
            if state.connected:
                await transport.publish("edgetrt/v1/u/cam-1/health", b"x")
                return transport
    raise AssertionError("the states ended")


def connect(config: BrokerConfig) -> None:
    asyncio.run(asyncio.wait_for(connected(config), 60))


@pytest.mark.parametrize(
    ("since_boot_s", "host", "expected"),
    [
        (10.0, "broker.example", 30.0),
        (301.0, "broker.example", 0.0),
        (10.0, "127.0.0.1", 0.0),
        (10.0, "localhost", 0.0),
        (10.0, "::1", 0.0),
    ],
)
def test_after_a_boot_the_first_attempt_is_spread(
    since_boot_s: float, host: str, expected: float
) -> None:
    assert first_wait_s(30.0, since_boot_s, host) == expected


def test_addresses_are_read_and_shown_as_people_write_them() -> None:
    config = BrokerConfig(host="::1", others=("backup", "[fe80::1]:8883", "third:1884"))
    found = endpoints(config, "cam-1")
    assert [(place.host, place.port) for place in found] == [
        ("::1", 1883),
        ("backup", 1883),
        ("fe80::1", 8883),
        ("third", 1884),
    ]
    assert [place.where for place in found][:3] == ["[::1]:1883", "backup:1883", "[fe80::1]:8883"]


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"broker\.others 'a:b:c'"):
        endpoints(BrokerConfig(others=("a:b:c",)), "cam-1")


def test_credentials_of_the_service_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BrokerConfig(username="cam-1", password_file="credential:broker.password")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=r"credential:broker\.password") as caught:
        endpoints(config, "cam-1")
    assert "LoadCredential" in caught.value.hint
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "broker.password").write_text("secret\n")
    assert endpoints(config, "cam-1")[0].password == "secret"


def test_a_secret_that_everybody_can_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "broker.password"
    secret.write_text("hush\n")
    config = BrokerConfig(username="cam-1", password_file=str(secret), key_file="/nonexistent")
    secret.chmod(0o640)
    assert open_to_all(config) == ()
    secret.chmod(0o644)
    assert open_to_all(config) == (
        f"broker.password_file {secret}: mode 0644: every user here can read it",
    )
    Places(msgspec.structs.replace(config, key_file=None), "cam-1")
    assert "mode 0644" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.broker
def test_another_broker_stands_in_for_one_that_is_away(tmp_path: Path) -> None:
    with running(tmp_path) as broker:
        connect(BrokerConfig(port=free_port(), others=(f"127.0.0.1:{broker.port}",)))


@pytest.mark.broker
def test_a_broker_is_reached_over_ipv6(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = probe.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 here")
    with running(tmp_path, f"listener {port} ::1"):
        connect(BrokerConfig(host="::1", port=port))


@pytest.mark.broker
def test_a_device_is_known_by_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed")

    def openssl(*arguments: str) -> None:
        subprocess.run([tool, *arguments], check=True, cwd=tmp_path, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", *usage)
    for name, subject in (("server", "/CN=broker"), ("device", "/CN=cam-1")):
        openssl(
            *new, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", subject,
            "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-addext", "keyUsage=critical,digitalSignature", "-CA", "ca.crt", "-CAkey", "ca.key",
        )  # fmt: skip
    (tmp_path / "acl").write_text("pattern write edgetrt/v1/u/%u/#\n")
    lines = [f"cafile {tmp_path}/ca.crt", f"certfile {tmp_path}/server.crt",
             f"keyfile {tmp_path}/server.key", "require_certificate true",
             "use_identity_as_username true", f"acl_file {tmp_path}/acl"]  # fmt: skip
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with running(tmp_path, *lines, anonymous=False) as broker:
        config = BrokerConfig(
            port=broker.port,
            ca_file=str(tmp_path / "ca.crt"),
            cert_file="credential:device.crt",
            key_file="credential:device.key",
        )
        connect(config)
        bare = BrokerConfig(port=broker.port, ca_file=str(tmp_path / "ca.crt"))
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(connected(bare), 1.0))
