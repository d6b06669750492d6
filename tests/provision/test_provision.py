"""A device gets its identity, or keeps everything as it was; with a real broker and a real CA."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt import document
from edgetrt.cli import provision as cli
from edgetrt.config import DeviceConfig
from edgetrt.errors import ConfigError, EdgetrtError, TransportError
from edgetrt.provision import provision, request, token
from edgetrt.provision.credentials import check
from tests.authority import Authority
from tests.broker import free_port
from tests.site import Site, site

pytestmark = pytest.mark.broker

WRITTEN = """\
# This device.
device: cam-1

broker: # an old one, without TLS
  host: 127.0.0.1
  port: 1883
  username: old
  keepalive_s: 60

publish: {result_hz: 5} # stays
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "agent.yaml"
    path.parent.mkdir()
    path.write_text(WRITTEN)
    return path


def tree(config: Path) -> dict[str, bytes]:
    """Every file beside the config."""
    folder = config.parent
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_from_the_request_to_the_broker(here: Site, config: Path) -> None:
    asked = request(config)
    assert asked.device == "cam-1"
    assert mode(asked.key) == 0o600
    assert b"PRIVATE" not in asked.request.read_bytes()
    done = provision(
        config, f"127.0.0.1:{here.port}", here.authority.ca, here.authority.sign(asked.request)
    )

    assert done.broker.where == f"127.0.0.1:{here.port}"
    assert done.broker.tls.startswith("TLSv1.")
    assert done.broker.server == "broker"
    assert done.certificate is not None
    assert done.certificate.device == "cam-1"
    loaded = document.load(config, DeviceConfig)
    assert (loaded.broker.port, loaded.broker.keepalive_s, loaded.broker.username) == (
        here.port,
        60,
        None,
    )
    assert loaded.publish.result_hz == 5
    text = config.read_text()
    assert text.startswith("# This device.\ndevice: cam-1\n\nbroker:\n")
    assert text.endswith("\npublish: {result_hz: 5} # stays\n")
    key = document.beside(config, loaded.broker.key_file or "")
    assert mode(key) == 0o600
    assert mode(key.parent) == 0o755
    assert done.previous is not None
    assert done.previous.read_text() == WRITTEN
    # The key of the request is in use now, and no longer elsewhere.
    assert not asked.key.exists()


def test_the_same_files_again_leave_those_in_use_where_they_are(here: Site, config: Path) -> None:
    asked = request(config)
    broker, cert = f"127.0.0.1:{here.port}", here.authority.sign(asked.request)
    provision(config, broker, here.authority.ca, cert)
    before = {path: path.stat().st_ino for path in (config.parent / "tls").glob("*/*")}
    pending = request(config)

    provision(config, broker, here.authority.ca, cert)

    after = {path: path.stat().st_ino for path in (config.parent / "tls").glob("*/*")}
    assert before
    assert before.items() <= after.items()
    assert pending.key.exists()  # of a renewal that is still to be signed


def test_what_was_provisioned_is_what_the_agent_connects_with(here: Site, config: Path) -> None:
    asked = request(config)
    provision(
        config, f"localhost:{here.port}", here.authority.ca, here.authority.sign(asked.request)
    )
    # From another folder: the files are named relative to the config.
    program = (
        "import sys; from pathlib import Path; from edgetrt import app, document\n"
        "from edgetrt.config import DeviceConfig\n"
        "path = Path(sys.argv[1]); device = document.load(path, DeviceConfig)\n"
        "sys.exit(app.run_agent(device, path, Path(sys.argv[2])))\n"
    )
    run = config.parent / "run"
    run.mkdir()
    (config.parent / "pipelines.d").mkdir()
    environment = {**os.environ, "EDGETRT_STATE": str(config.parent / "state")}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(config), str(run)], env=environment
    ) as agent:
        try:
            deadline = time.monotonic() + 60
            while not _connected(run):
                assert time.monotonic() < deadline
                assert agent.poll() is None
                time.sleep(0.05)
        finally:
            agent.terminate()
    assert agent.returncode == 0


def _connected(run: Path) -> bool:
    try:
        return bool(json.loads((run / "status.json").read_bytes())["connected"])
    except (OSError, ValueError):
        return False


def test_a_renewal_with_the_same_key_and_one_with_a_new_key(here: Site, config: Path) -> None:
    asked = request(config)
    where = f"127.0.0.1:{here.port}"
    first = provision(config, where, here.authority.ca, here.authority.sign(asked.request))
    shutil.copy(asked.request, config.parent / "again.csr")
    again = here.authority.sign(config.parent / "again.csr", to_days=200)
    second = provision(config, where, here.authority.ca, again)
    assert second.folder != first.folder
    assert first.folder.exists()
    fresh = request(config)
    assert fresh.pem != asked.pem
    third = provision(config, where, here.authority.ca, here.authority.sign(fresh.request))
    # The one before stays for the way back, older ones are gone.
    assert sorted(p.name for p in (config.parent / "tls").iterdir() if p.is_dir()) == sorted(
        [second.folder.name, third.folder.name]
    )


def test_the_name_of_the_request_is_the_device(here: Site, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    asked = request(config, "cam-9")
    done = provision(
        config, f"127.0.0.1:{here.port}", here.authority.ca, here.authority.sign(asked.request)
    )
    assert done.device == document.load(config, DeviceConfig).device == "cam-9"


def test_a_device_without_a_config_gets_one(here: Site, tmp_path: Path) -> None:
    config, mine = tmp_path / "agent.yaml", here.credentials("cam-7")
    done = provision(
        config, f"127.0.0.1:{here.port}", here.authority.ca, mine.cert, mine.key, "cam-7"
    )
    assert done.previous is None
    assert document.load(config, DeviceConfig).device == "cam-7"
    assert mine.key.exists()


def refused(here: Site, config: Path, **changes: object) -> EdgetrtError:
    """Provision with something wrong; nothing may have changed."""
    mine = here.credentials("cam-1")
    wishes: dict[str, object] = {
        "broker": f"127.0.0.1:{here.port}", "ca": here.authority.ca, "cert": mine.cert, "key": mine.key,
    }  # fmt: skip
    before = tree(config)
    with pytest.raises(EdgetrtError) as caught:
        provision(config, **{**wishes, **changes})  # type: ignore[arg-type]
    assert tree(config) == before
    assert "Traceback" not in caught.value.message
    return caught.value


def test_certificates_that_do_not_do(here: Site, config: Path, tmp_path: Path) -> None:
    sign = here.authority.issue
    old = sign("cam-1", from_days=-30, to_days=-1, file="old")
    early = sign("cam-1", from_days=3, to_days=9, file="early")
    other, server = sign("cam-2"), sign("cam-1", server=True, file="as-server")
    strange = Authority(tmp_path / "strange", "stranger").issue("cam-1")
    mine = here.credentials("cam-1")
    cases = [
        ({"cert": old.cert, "key": old.key}, "expired at", "--csr"),
        ({"cert": early.cert, "key": early.key}, "not valid before", "clocks"),
        ({"cert": other.cert, "key": other.key}, "name is 'cam-2', this device is 'cam-1'", "--device"),
        ({"cert": server.cert, "key": server.key}, "made for servers", "client"),
        ({"cert": strange.cert, "key": strange.key}, "signed by CN=stranger, not by", "CA"),
        ({"cert": other.cert, "key": mine.key}, "made for another key", "--csr"),
        ({"cert": mine.key}, "expected a certificate as PEM, but it holds a key", "BEGIN"),
        ({"cert": tmp_path / "none"}, "cannot be read: No such file", "path"),
        ({"ca": mine.key}, "expected a certificate", "BEGIN"),
        ({"key": mine.cert}, "expected a private key", "type"),
    ]  # fmt: skip
    mine.cert.chmod(0o600)
    for changes, words, hint in cases:
        error = refused(here, config, **changes)
        assert isinstance(error, ConfigError), words
        assert words in error.message
        assert hint in error.hint


def test_a_key_that_others_can_read_is_refused(here: Site, config: Path) -> None:
    mine = here.authority.issue("cam-1", file="open")
    mine.key.chmod(0o640)
    error = refused(here, config, cert=mine.cert, key=mine.key)
    assert "can be read by others (mode 640)" in error.message
    assert "chmod 600" in error.hint


def test_a_clock_of_1970_is_called_that(here: Site) -> None:
    mine = here.credentials("cam-1")
    read = [path.read_bytes() for path in (mine.cert, mine.key, here.authority.ca)]
    then = dt.datetime(1970, 1, 1, 0, 7, tzinfo=dt.timezone.utc)
    with pytest.raises(ConfigError, match="this device's clock says 1970-01-01 00:07") as caught:
        check(*read, "cam-1", then, ("device.crt", "device.key", "ca.crt"))
    assert "timedatectl" in caught.value.hint


def test_brokers_that_do_not_do(here: Site, config: Path, tmp_path: Path) -> None:
    strange = Authority(tmp_path / "strange", "stranger")
    mine = strange.issue("cam-1")
    cases = [
        ({"broker": f"127.0.0.1:{free_port()}"}, "refuses connections"),
        ({"broker": f"127.0.0.2:{here.port}"}, "refuses connections"),
        ({"broker": f"no-such-host.invalid:{here.port}"}, "cannot be resolved"),
        ({"ca": strange.ca, "cert": mine.cert, "key": mine.key}, "its certificate is not trusted"),
        ({"cert": None, "key": None}, "asks for a certificate"),
    ]
    for changes, words in cases:
        error = refused(here, config, **changes)
        assert isinstance(error, TransportError), words
        assert words in error.message


def test_a_broker_that_revoked_the_certificate(config: Path, tmp_path: Path) -> None:
    made = Site(tmp_path / "revoking")
    mine = made.credentials("cam-1")
    crl = made.authority.revoke(mine.cert)
    revoking = Site(tmp_path / "revoking2", f"crlfile {crl}", f"cafile {made.authority.ca}")
    revoking.authority = made.authority
    server = made.authority.issue("broker", hosts=("127.0.0.1",), file="s", server=True)
    for there, new in (("server.crt", server.cert), ("server.key", server.key)):
        shutil.copy(new, tmp_path / "revoking2" / "ca" / there)
    revoking.start()
    try:
        error = refused(revoking, config)
    finally:
        revoking.stop()
    assert "revoked" in error.message


def test_a_broken_config_is_told_first(here: Site, config: Path) -> None:
    config.write_text("broker: [\n")
    assert "not valid YAML" in refused(here, config).message
    config.write_text("brokr: {}\n")
    assert "unknown key" in refused(here, config).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(here: Site, config: Path) -> None:
    config.parent.chmod(0o500)
    try:
        assert "sudo" in refused(here, config).hint
    finally:
        config.parent.chmod(0o700)


def test_a_token_is_checked_and_nothing_is_pretended(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one-time\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        token(path)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="enrolment service") as caught:
        token(path)
    assert "--csr" in caught.value.hint
    path.write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        token(path)


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgetrt", "provision", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_command_speaks_json_and_fails_with_words(here: Site, config: Path) -> None:
    asked = json.loads(command("--csr", "--config", config, "--json").stdout)
    assert asked["device"] == "cam-1"
    signed = here.authority.sign(Path(asked["request"]))
    site_options = (
        "--broker",
        f"127.0.0.1:{here.port}",
        "--ca",
        here.authority.ca,
        "--config",
        config,
    )
    done = command(*site_options, "--cert", signed, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["broker"]["server"] == "broker"
    failed = command("--ca", here.authority.ca, "--config", config)
    assert (failed.returncode, failed.stdout) == (78, "")
    assert "--broker is missing" in failed.stderr


def test_a_person_reads_what_the_broker_said(
    here: Site, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = here.credentials("cam-1")
    options = {"broker": f"127.0.0.1:{here.port}", "ca": here.authority.ca, "config": config}
    cli.provision(**options, cert=mine.cert, key=mine.key)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert f"cam-1: 127.0.0.1:{here.port} accepted it, TLSv1." in said
    assert "signed by CN=site-ca" in said
    for wrong, words in [
        ({"cert": mine.cert, "csr": True}, "three ways"),
        ({"broker": None}, "--broker is missing"),
        ({"ca": None}, "--ca is missing"),
        ({"key": mine.key}, "no certificate for it"),
    ]:
        with pytest.raises(ConfigError, match=words):
            cli.provision(**{**options, **wrong})  # type: ignore[arg-type]
