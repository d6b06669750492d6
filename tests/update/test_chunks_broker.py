"""Releases through a site's own broker, with its access list on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt import wire
from edgetrt.errors import DigestError, EdgetrtError, TrustError, UnreachableError
from edgetrt.update.chunks import ChunkOrigin
from edgetrt.update.fetch import Wanted, fetch
from edgetrt.update.origin import Limits
from edgetrt.update.record import Offer
from edgetrt.update.serve import MOST_WAITING
from edgetrt.update.states import Code, State
from tests.cli.command import edgetrt
from tests.mqtt.test_access import NOT_AUTHORIZED, Party, party
from tests.site import CONTROLLER, Site, site
from tests.update.device import Device, offer
from tests.update.device import Site as Repository
from tests.update.over_broker import PATIENT, device_line, from_line, part, served

pytestmark = pytest.mark.broker

REPOSITORY = "edgetrt.repository"
NETWORK = random.Random(3).randbytes(300_000)
CHUNK = 4096
ROOT = Path(wire.__file__).parents[2]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("repository"))
    made.release("1.0", NETWORK)
    return made


def public(repository: Repository) -> Path:
    return repository.repository.metadata.parent


def release(repository: Repository) -> Wanted:
    """The file that the one release is, below `targets`."""
    (path,) = (public(repository) / "targets/releases").glob("*.tar")
    return Wanted(f"releases/{path.name}", path.name.partition(".")[0], path.stat().st_size)


def requests(controller: Party) -> list[tuple[str, wire.FetchMessage]]:
    """What was asked for so far, and on which topic."""
    found = [m for m in list(controller.messages) if m.topic.endswith("/fetch")]
    return [(m.topic, wire.decode(wire.FetchMessage, m.payload)) for m in found]


def wait_for(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_release_comes_through_the_broker_and_is_taken(
    here: Site, repository: Repository, tmp_path: Path
) -> None:
    with (
        served(here.client(REPOSITORY), public(repository)) as server,
        device_line(here.client("cam-1"), "cam-1") as line,
    ):
        device = Device(
            tmp_path, repository.repository.first_root(), from_line(line, chunk_bytes=16384)
        )
        device.machine.offer(offer(repository.assign("releases/street-1.0.tar", 1)))
        assert device.settle().code is Code.SUCCEEDED

    found = device.layout.release(device.layout.current()) / "street.onnx"
    assert found.read_bytes() == NETWORK
    assert (server.refused, line.strays) == (0, 0)
    assert server.sent >= len(NETWORK) // 16384


def test_a_forged_assignment_and_a_tampered_release_are_refused_as_ever(
    here: Site, tmp_path: Path
) -> None:
    made = Repository(tmp_path / "repository")
    target = made.release("1.0", NETWORK)
    with (
        served(here.client(REPOSITORY), public(made)),
        device_line(here.client("cam-1"), "cam-1") as line,
    ):
        sources = from_line(line)
        device = Device(tmp_path / "device", made.repository.first_root(), sources)
        device.machine.offer(offer(made.assign(target, 1, key="timestamp-0")))
        assert (device.settle().code, device.record().reason) == (Code.REJECTED, "signature")

        tar = public(made) / "targets" / release(made).path
        data = bytearray(tar.read_bytes())
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
        device.machine.offer(offer(made.assign(target, 2)))
        assert (device.settle().code, device.record().reason) == (Code.REJECTED, "digest")

        third = offer(made.assign(target, 3))
        (public(made) / "metadata/timestamp.json").write_bytes(b"{}")
        device.machine.offer(third)
        assert (device.settle().code, device.record().reason) == (Code.REJECTED, "metadata")
    assert device.layout.current() == ""


@contextmanager
def command(here: Site, tree: Path, folder: Path, mbit: float) -> Iterator[subprocess.Popen[bytes]]:
    """`edgetrt release serve` itself; killed at the end."""
    told = here.client(REPOSITORY)
    files = "".join(
        f"  {name}: {getattr(told, name)}\n" for name in ("ca_file", "cert_file", "key_file")
    )
    config = folder / "serve.yaml"
    config.write_text(f"broker:\n  host: 127.0.0.1\n  port: {told.port}\n{files}")
    options = ["--config", str(config), "--device-mbit", str(mbit)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetrt", "release", "serve", str(tree), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_is_asked_for_the_rest(
    here: Site, repository: Repository, tmp_path: Path
) -> None:
    wanted, limits = release(repository), Limits(answer_s=1, gap_s=1)
    with (
        party(here, CONTROLLER) as controller,
        device_line(here.client("cam-1"), "cam-1") as line,
    ):
        controller.subscribe(wire.FETCHES)
        origins = [ChunkOrigin(line, "targets", limits, CHUNK)]
        with command(here, public(repository), tmp_path, 0.5) as process:

            def progress(at: int, _: int) -> None:
                if at > 100_000:
                    process.kill()

            with pytest.raises(UnreachableError) as lost:
                until_served(lambda: fetch(wanted, origins, tmp_path, progress))
            assert lost.value.code in ("slow", "unreachable")
        kept = int((tmp_path / f"{wanted.sha256}.at").read_text())
        assert kept > 100_000
        controller.messages.clear()
        with command(here, public(repository), tmp_path, 0):
            path = until_served(lambda: fetch(wanted, origins, tmp_path))

        assert path.stat().st_size == wanted.length
        offsets = sorted({asked.offset for _, asked in requests(controller)})
        assert offsets == list(range(kept, wanted.length, CHUNK))


def until_served(work: Callable[[], Path]) -> Path:
    """Ask again until somebody serves at all."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return work()
        except UnreachableError as error:
            if error.code != "unreachable" or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_without_a_server_the_device_knows_at_once(here: Site, tmp_path: Path) -> None:
    wanted = Wanted("x", "0" * 64, 1)
    with (
        device_line(here.client("cam-1"), "cam-1") as line,
        pytest.raises(UnreachableError, match="nobody at this broker") as refused,
    ):
        fetch(wanted, [ChunkOrigin(line, "targets", PATIENT)], tmp_path)
    assert refused.value.code == "unreachable"


def test_one_device_that_floods_starves_no_other(
    here: Site, repository: Repository, tmp_path: Path
) -> None:
    wanted = release(repository)
    body = wire.encode(wire.FetchMessage(path=f"targets/{wanted.path}", offset=0, length=1 << 17))
    with (
        served(here.client(REPOSITORY), public(repository), device_bytes_s=2e6) as server,
        party(here, "cam-2") as greedy,
        device_line(here.client("cam-1"), "cam-1") as line,
    ):
        asked = Properties(PacketTypes.PUBLISH)
        asked.CorrelationData = b"x"
        greedy.subscribe(wire.chunk("cam-2"))
        for _ in range(40 * MOST_WAITING):
            greedy.client.publish(wire.fetch("cam-2"), body, qos=1, properties=asked)
        fetch(wanted, [ChunkOrigin(line, "targets", PATIENT)], tmp_path)
        got = len(greedy.messages)
    assert server.refused > MOST_WAITING
    assert got <= 40 * MOST_WAITING - server.refused


def test_a_folder_that_is_not_there_is_a_mistake_of_a_person(tmp_path: Path) -> None:
    done = edgetrt("release", "serve", str(tmp_path / "none"))
    assert (done.code, "cannot be served" in done.err) == (78, True)


# --- what the access list forbids ---------------------------------------------------------------


def test_a_device_asks_as_itself_and_reads_its_own_answers_only(here: Site) -> None:
    with (
        party(here, REPOSITORY) as server,
        party(here, "cam-1") as device,
        party(here, "cam-2") as other,
    ):
        server.subscribe(wire.FETCHES)
        device.subscribe(wire.chunk("cam-1"))
        other.subscribe("edgetrt/v1/d/+/chunk")
        other.subscribe(wire.FETCHES)
        assert other.say(wire.fetch("cam-1")) == NOT_AUTHORIZED
        assert other.say(wire.chunk("cam-1")) == NOT_AUTHORIZED
        assert device.say(wire.chunk("cam-1")) == NOT_AUTHORIZED
        assert device.say(wire.fetch("cam-1"), b"asked") in (0, 0x10)
        server.heard("asked")
        server.say(wire.chunk("cam-1"), b"answer")
        server.say(wire.chunk("cam-2"), b"last")
        assert other.heard("last") == []
        assert device.heard("answer") == []


def test_who_serves_files_can_do_nothing_else(here: Site) -> None:
    with party(here, REPOSITORY) as server, party(here, "cam-1") as device:
        server.subscribe("edgetrt/#")
        refused = [
            server.say(topic, retain=topic.endswith("desired"))
            for topic in (
                wire.desired("cam-1"),
                wire.cmd("cam-1"),
                wire.ANNOUNCE,
                wire.status("cam-1"),
                wire.fetch("cam-1"),
            )
        ]
        assert refused == [NOT_AUTHORIZED] * 5
        device.say(wire.event("cam-1"), b"secret")
        device.say(wire.fetch("cam-1"), b"last")
        assert server.heard("last") == []


# --- somebody else in its place -----------------------------------------------------------------

Lie = Callable[[Party, MQTTMessage, wire.FetchMessage], None]


@contextmanager
def liar(here: Site, lie: Lie) -> Iterator[Party]:
    """A server that holds the right certificate, and means no good."""
    with party(here, REPOSITORY) as server:
        server.subscribe(wire.FETCHES)

        def answer(_client: object, _data: object, message: MQTTMessage) -> None:
            lie(server, message, wire.decode(wire.FetchMessage, message.payload))

        server.client.on_message = answer
        yield server


def send(server: Party, message: MQTTMessage, payload: bytes, key: bytes | None = None) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    told = message.properties
    assert told is not None
    properties.CorrelationData = key or told.CorrelationData
    topic = wire.chunk("cam-1")
    assert told.ResponseTopic == topic
    server.client.publish(topic, payload, qos=1, properties=properties)


def garbled(server: Party, message: MQTTMessage, wanted: wire.FetchMessage) -> None:
    data = bytes(min(wanted.length, len(NETWORK) - wanted.offset))
    send(server, message, part(NETWORK, wanted, data=data))


def longer(server: Party, message: MQTTMessage, wanted: wire.FetchMessage) -> None:
    send(server, message, part(NETWORK, wanted, data=bytes(100_000)))


def huge(server: Party, message: MQTTMessage, wanted: wire.FetchMessage) -> None:
    send(server, message, part(NETWORK, wanted, data=bytes(150_000)))


def oversized(server: Party, message: MQTTMessage, wanted: wire.FetchMessage) -> None:
    send(server, message, part(NETWORK, wanted, data=bytes(300_000)))


def endless(server: Party, message: MQTTMessage, wanted: wire.FetchMessage) -> None:
    for _ in range(50):
        send(server, message, part(NETWORK, wanted), os.urandom(16))
    send(server, message, part(NETWORK, wanted, size=1 << 40))


def stale(server: Party, message: MQTTMessage, wanted: wire.FetchMessage) -> None:
    send(server, message, part(NETWORK, wanted), b"yesterday's")


@pytest.mark.parametrize(
    ("lie", "kind", "code"),
    [
        (garbled, DigestError, "digest"),
        (endless, DigestError, "length"),
        (longer, TrustError, "range"),
        (huge, UnreachableError, "unreachable"),
        (oversized, UnreachableError, "unreachable"),
        (stale, UnreachableError, "unreachable"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_liar_with_the_right_certificate_installs_nothing(
    here: Site, tmp_path: Path, lie: Lie, kind: type[EdgetrtError], code: str
) -> None:
    wanted = Wanted("x", "0" * 64, len(NETWORK))
    with liar(here, lie), device_line(here.client("cam-1"), "cam-1") as line:
        origin = ChunkOrigin(line, "targets", Limits(answer_s=1.5, gap_s=1.5))
        with pytest.raises(kind) as refused:
            fetch(wanted, [origin], tmp_path)
        assert refused.value.code == code  # type: ignore[attr-defined]
        assert [path.suffix for path in tmp_path.iterdir() if path.is_file()] != [""]


def test_a_liar_cannot_make_the_machine_switch(
    here: Site, repository: Repository, tmp_path: Path
) -> None:
    """True metadata, and another release in place of the signed one."""
    tree, forged = public(repository), os.urandom(release(repository).length)

    def half_true(server: Party, message: MQTTMessage, wanted: wire.FetchMessage) -> None:
        path = tree / wanted.path
        if wanted.path.endswith(".tar"):
            send(server, message, part(forged, wanted))
        elif path.exists():
            send(server, message, part(path.read_bytes(), wanted))
        else:
            send(server, message, part(b"", wanted, status=404))

    with liar(here, half_true), device_line(here.client("cam-1"), "cam-1") as line:
        device = Device(tmp_path, repository.repository.first_root(), from_line(line))
        envelope: Offer = offer(repository.assign("releases/street-1.0.tar", 1))
        device.machine.offer(envelope)
        record = device.settle()
    assert (record.code, record.reason, record.state) == (Code.REJECTED, "digest", State.FETCH)
    assert device.layout.current() == ""
    assert list(device.layout.downloads.glob(record.digest)) == []
