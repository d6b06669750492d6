"""What the broker keeps for us, who may connect, and TLS, with a real mosquitto."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import edgetrt.mqtt
import edgetrt.wire
from edgetrt.config import BrokerConfig
from edgetrt.errors import ConfigError, NotConnectedError
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from tests.broker import Proxy, observing, running

TOPIC = "edgetrt/v1/u/cam-1/health"
DOWN = "edgetrt/v1/d/cam-1/cmd"
QUICK = Settings(will_delay_s=0)

pytestmark = pytest.mark.broker


def quick() -> Backoff:
    return Backoff(0.02, 0.1)


def run(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario, 60)

    asyncio.run(bounded())


async def until(mqtt: MqttTransport, connected: bool, word: str = "") -> str:
    async for state in mqtt.states():
        if state.connected == connected and word in state.reason:
            return state.reason
    raise AssertionError("the states ended")


def test_a_broker_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        proxy = Proxy(port)
        config = BrokerConfig(port=proxy.port)
        async with MqttTransport(config, "cam-1", settings=QUICK, backoff=quick()) as mqtt:
            with pytest.raises(NotConnectedError, match=f"{proxy.port}: refuses connections"):
                await mqtt.reach(0.2)
            await proxy.start()
            await mqtt.reach(30)
            assert mqtt.state.connected
        await proxy.cut()

    with running(tmp_path) as broker:
        run(scenario(broker.port))


def test_what_came_while_we_were_away_is_delivered_after(tmp_path: Path) -> None:
    async def scenario(port: int, publish: Callable[[bytes], object]) -> None:
        proxy = Proxy(port)
        await proxy.start()
        mqtt = MqttTransport(
            BrokerConfig(port=proxy.port),
            "cam-1",
            subscriptions=(DOWN,),
            settings=QUICK,
            backoff=quick(),
        )
        async with mqtt:
            await until(mqtt, connected=True)
            await proxy.cut()
            await until(mqtt, connected=False, word="refuses")
            publish(b"while away")
            await proxy.start()
            async for message in mqtt.messages():
                assert message.payload == b"while away"
                break
        await proxy.cut()

    with running(tmp_path) as broker, observing(broker.port) as observer:
        run(scenario(broker.port, lambda body: observer.client.publish(DOWN, body, qos=1)))


def test_a_message_that_was_not_dealt_with_comes_again(tmp_path: Path) -> None:
    async def take(port: int, finish: bool) -> bytes:
        config = BrokerConfig(port=port)
        async with MqttTransport(config, "cam-1", subscriptions=(DOWN,), settings=QUICK) as mqtt:
            taken = mqtt.messages()
            message = await taken.__anext__()
            if finish:
                asking = asyncio.create_task(_next(taken))
                await asyncio.sleep(0.1)
                asking.cancel()
            return message.payload

    async def _next(taken: object) -> None:
        await taken.__anext__()  # type: ignore[attr-defined]

    async def scenario(port: int, publish: Callable[[bytes], object]) -> None:
        config = BrokerConfig(port=port)
        async with MqttTransport(config, "cam-1", subscriptions=(DOWN,), settings=QUICK) as mqtt:
            await until(mqtt, connected=True)
        publish(b"first")
        publish(b"second")
        assert await take(port, finish=False) == b"first"
        assert await take(port, finish=True) == b"first"
        assert await take(port, finish=True) == b"second"

    with running(tmp_path) as broker, observing(broker.port) as observer:
        run(scenario(broker.port, lambda body: observer.client.publish(DOWN, body, qos=1)))


def test_publishers_are_told_when_the_connection_breaks_under_them(tmp_path: Path) -> None:
    async def scenario(port: int) -> None:
        proxy = Proxy(port)
        await proxy.start()
        mqtt = MqttTransport(
            BrokerConfig(port=proxy.port), "cam-1", settings=QUICK, backoff=quick()
        )
        async with mqtt:
            await until(mqtt, connected=True)
            publishing = [asyncio.create_task(mqtt.publish(TOPIC, b"x")) for _ in range(200)]
            await asyncio.sleep(0)
            await proxy.cut()
            outcomes = await asyncio.gather(*publishing, return_exceptions=True)
            assert all(o is None or isinstance(o, NotConnectedError) for o in outcomes)
            assert any(isinstance(o, NotConnectedError) for o in outcomes)
        await proxy.cut()

    with running(tmp_path) as broker:
        run(scenario(broker.port))


def test_a_broker_that_starts_late_is_found(tmp_path: Path) -> None:
    with running(tmp_path) as broker:
        broker.stop()

        async def scenario() -> None:
            mqtt = MqttTransport(BrokerConfig(port=broker.port), "cam-1", backoff=quick())
            async with mqtt:
                await until(mqtt, connected=False, word="refuses connections")
                await asyncio.to_thread(broker.start)
                await until(mqtt, connected=True)

        run(scenario())


def test_passwords(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    users = tmp_path / "users"
    subprocess.run([tool, "-c", "-b", str(users), "cam-1", "right"], check=True)
    (tmp_path / "right").write_text("right\n")
    (tmp_path / "wrong").write_text("wrong\n")
    for secret in ("right", "wrong"):
        (tmp_path / secret).chmod(0o600)

    async def scenario(port: int) -> None:
        def transport(password: str) -> MqttTransport:
            config = BrokerConfig(
                port=port, username="cam-1", password_file=str(tmp_path / password)
            )
            return MqttTransport(config, "cam-1", settings=QUICK, backoff=quick())

        async with transport("wrong") as mqtt:
            reason = await until(mqtt, connected=False, word="refused")
            assert "password_file" in reason
            await asyncio.sleep(0.3)
        async with transport("right") as mqtt:
            await until(mqtt, connected=True)

    with (
        running(tmp_path, f"password_file {users}", anonymous=False) as broker,
        caplog.at_level(logging.WARNING, logger="edgetrt.mqtt"),
    ):
        run(scenario(broker.port))
    assert len(caplog.records) == 1
    assert "wrong" not in caplog.text


@pytest.mark.parametrize(
    "broken",
    [
        BrokerConfig(password_file="/nonexistent"),
        BrokerConfig(ca_file="/nonexistent"),
        BrokerConfig(tls=True, cert_file="/nonexistent"),
    ],
)
def test_files_that_are_missing_are_a_config_error(broken: BrokerConfig) -> None:
    with pytest.raises(ConfigError, match="/nonexistent"):
        MqttTransport(broken, "cam-1")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a certificate of it for 127.0.0.1, and a CA that has signed nothing."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run([tool, *arguments], check=True, cwd=folder, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    # Python 3.13 and later want the key usage to be said.
    authority = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name in ("ca", "stranger"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        openssl(*new, *files, "-subj", f"/CN={name}", *authority)
    openssl(
        *new, "-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=broker",
        "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
        "-addext", "keyUsage=critical,digitalSignature",
        "-CA", "ca.crt", "-CAkey", "ca.key",
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("ca", "host", "outcome"),
    [
        ("ca.crt", "127.0.0.1", ""),
        ("stranger.crt", "127.0.0.1", "not trusted"),
        ("ca.crt", "localhost", "not trusted"),
    ],
)
def test_tls(certificates: Path, tmp_path: Path, ca: str, host: str, outcome: str) -> None:
    async def scenario(port: int) -> None:
        config = BrokerConfig(host=host, port=port, ca_file=str(certificates / ca))
        async with MqttTransport(config, "cam-1", settings=QUICK, backoff=quick()) as mqtt:
            if outcome:
                await until(mqtt, connected=False, word=outcome)
                return
            await until(mqtt, connected=True)
            # Long bodies and many answers at once, so that TLS holds decrypted bytes back.
            await asyncio.gather(*(mqtt.publish(TOPIC, b"x" * 20_000) for _ in range(100)))

    lines = [f"{key} {certificates / file}" for key, file in
             [("certfile", "server.crt"), ("keyfile", "server.key")]]  # fmt: skip
    with running(tmp_path, *lines) as broker:
        run(scenario(broker.port))


@pytest.mark.parametrize("ours", [True, False])
def test_tls_at_one_end_only_is_told(certificates: Path, tmp_path: Path, ours: bool) -> None:
    async def scenario(port: int) -> None:
        config = BrokerConfig(port=port, ca_file=str(certificates / "ca.crt") if ours else None)
        async with MqttTransport(config, "cam-1", settings=QUICK, backoff=quick()) as mqtt:
            assert await until(mqtt, connected=False, word="speak TLS")

    lines = [f"{key} {certificates / file}" for key, file in
             [("certfile", "server.crt"), ("keyfile", "server.key")]]  # fmt: skip
    with running(tmp_path, *([] if ours else lines)) as broker:
        run(scenario(broker.port))


def test_no_way_to_write_another_qos() -> None:
    assert "qos" not in inspect.signature(MqttTransport.publish).parameters
    folder = Path(edgetrt.mqtt.__file__).parent
    written = []
    for file in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in {"will_set"} or ast.unparse(node.func) == "client.publish":
                written.append(ast.unparse(node))
                given = [ast.unparse(a) for a in [*node.args, *(k.value for k in node.keywords)]]
                assert "QOS" in given, f"{file.name}: {ast.unparse(node)}"
    assert len(written) == 2
    assert edgetrt.wire.QOS == 1
