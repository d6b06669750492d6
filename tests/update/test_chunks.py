"""Files through the broker: servers that help, fail and lie, and what a device makes of each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt import wire
from edgetrt.config import UpdateConfig
from edgetrt.errors import (
    ConfigError,
    DigestError,
    EdgetrtError,
    NotConnectedError,
    TrustError,
    UnheardError,
    UnreachableError,
    UpdateError,
)
from edgetrt.types import Exchange
from edgetrt.update import local
from edgetrt.update.chunks import WINDOW, ChunkOrigin
from edgetrt.update.fetch import Wanted, fetch
from edgetrt.update.line import Line
from edgetrt.update.origin import Limits
from edgetrt.update.release import Host
from edgetrt.update.serve import ChunkServer
from edgetrt.update.tree import Tree
from edgetrt.update.turns import MOST_NAMES, Turns
from edgetrt.update.web import WebOrigin
from tests.fakes import FakeTransport
from tests.update.over_broker import PATIENT, QUICK, Reply, Script, Talk, part

DATA = random.Random(5).randbytes(100_000)
WANTED = Wanted("model.tar", hashlib.sha256(DATA).hexdigest(), len(DATA))
CHUNK = 4096


def honest(wanted: wire.FetchMessage, key: bytes) -> Reply:
    return [(key, part(DATA, wanted))]


def get(line: Line, folder: Path, limits: Limits = PATIENT, wanted: Wanted = WANTED) -> Path:
    return fetch(wanted, [ChunkOrigin(line, "targets", limits, CHUNK)], folder)


def test_a_file_comes_in_chunks_a_few_at_a_time(tmp_path: Path) -> None:
    server = Script(honest)

    assert get(server.line, tmp_path).read_bytes() == DATA

    assert {wanted.path for wanted in server.asked} == {"targets/model.tar"}
    assert [wanted.offset for wanted in server.asked] == list(range(0, len(DATA), CHUNK))
    assert {wanted.length for wanted in server.asked[:-1]} == {CHUNK}


def test_only_a_few_are_on_their_way_at_a_time(tmp_path: Path) -> None:
    server = Script(later(mute))
    with pytest.raises(UnreachableError):
        get(server.line, tmp_path, QUICK)
    assert len(server.asked) == 3 + WINDOW


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_files_of_any_size_come(tmp_path: Path, size: int) -> None:
    data = DATA[:size]
    server = Script(lambda wanted, key: [(key, part(data, wanted))])

    found = get(server.line, tmp_path, wanted=Wanted("x", hashlib.sha256(data).hexdigest(), size))

    assert found.read_bytes() == data


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_chunks_may_come_in_any_order_and_twice(chance: random.Random, chunks: int) -> None:
    """What is on its way is answered now or later, in any order, and twice."""
    data = DATA[: chunks * 100 - chance.randint(0, 99)]
    line, waiting, left = Line(), list[tuple[bytes, bytes]](), [chunks]

    def post(payload: bytes, key: bytes, _: object) -> None:
        wanted = wire.decode(wire.FetchMessage, payload)
        waiting.append((key, part(data, wanted)))
        no_more_come = len(waiting) == min(WINDOW, left[0])
        if wanted.offset and not no_more_come and chance.random() < 0.7:
            return
        chance.shuffle(waiting)
        left[0] -= len(waiting)
        for answer in [*waiting, *waiting]:
            line.take(*answer)
        waiting.clear()

    line.connect(post)
    with ChunkOrigin(line, "targets", PATIENT, 100).get("x") as reply:
        assert (reply.status, reply.length) == (200, len(data))
        assert b"".join(reply.chunks) == data
    assert line.strays == chunks


def again(wanted: wire.FetchMessage, key: bytes) -> Reply:
    return [(key, part(DATA, wanted))] * 3


def strangers(wanted: wire.FetchMessage, key: bytes) -> Reply:
    forged = part(DATA, wanted, data=b"\0" * min(wanted.length, len(DATA) - wanted.offset))
    flood = [(os.urandom(16), forged)] * 20
    return [*flood, (b"", forged), (key, part(DATA, wanted)), (key, forged)]


@pytest.mark.parametrize("talk", [again, strangers])
def test_what_was_not_asked_for_counts_for_nothing(tmp_path: Path, talk: Talk) -> None:
    server = Script(talk)

    assert get(server.line, tmp_path).read_bytes() == DATA

    assert server.line.strays == len(server.asked) * (2 if talk is again else 22)


def test_an_answer_to_the_attempt_before_is_a_stray(tmp_path: Path) -> None:
    late = list[tuple[bytes, bytes]]()
    forged = b"\0" * CHUNK

    def mute_then_late(wanted: wire.FetchMessage, key: bytes) -> Reply:
        if not late:
            late.append((key, part(DATA, wanted, data=forged)))
            return []
        return [*late, (key, part(DATA, wanted))]

    server = Script(mute_then_late)
    with pytest.raises(UnreachableError):
        get(server.line, tmp_path, QUICK)
    assert get(server.line, tmp_path).read_bytes() == DATA
    assert server.line.strays > 0


def lying(**lies: object) -> Talk:
    return lambda wanted, key: [(key, part(DATA, wanted, **lies))]


def later(talk: Talk, after: int = 3 * CHUNK) -> Talk:
    """Honest at first."""
    return lambda wanted, key: (honest if wanted.offset < after else talk)(wanted, key)


def wrong_byte(wanted: wire.FetchMessage, key: bytes) -> Reply:
    data = DATA[wanted.offset : wanted.offset + wanted.length]
    return [(key, part(DATA, wanted, data=data[:-1] + bytes([data[-1] ^ 1])))]


def one_short(wanted: wire.FetchMessage, key: bytes) -> Reply:
    return [(key, part(DATA, wanted, data=DATA[wanted.offset :][: wanted.length - 1]))]


def one_long(wanted: wire.FetchMessage, key: bytes) -> Reply:
    return [(key, part(DATA, wanted, data=DATA[wanted.offset :][: wanted.length] + b"\0"))]


def mute(_: wire.FetchMessage, __: bytes) -> Reply:
    return []


def slow(wanted: wire.FetchMessage, key: bytes) -> Reply:
    time.sleep(0.05)
    return honest(wanted, key)


REFUSALS: list[tuple[str, Talk, type[EdgetrtError], str]] = [
    ("a wrong byte", later(wrong_byte), DigestError, "digest"),
    ("another length", lying(size=len(DATA) - 1), DigestError, "length"),
    ("endless", lying(size=2**53), DigestError, "length"),
    ("another length in the middle", later(lying(size=2**53)), UnreachableError, "lost"),
    ("gone in the middle", later(lying(status=404, data=b"")), UnreachableError, "lost"),
    ("a chunk that is short", one_short, TrustError, "range"),
    ("one that is short in the middle", later(one_short), TrustError, "range"),
    ("a chunk that is long", one_long, TrustError, "range"),
    ("one that is long in the middle", later(one_long), TrustError, "range"),
    ("an empty chunk", lying(data=b""), TrustError, "range"),
    ("a huge chunk", lying(data=bytes(1 << 20)), TrustError, "range"),
    ("another offset", lying(offset=7), TrustError, "range"),
    ("another file", lying(path="targets/other"), TrustError, "range"),
    ("no chunk at all", lambda _, key: [(key, b"{}")], TrustError, "range"),
    ("bytes", lambda _, key: [(key, b"\xff\0")], TrustError, "range"),
    ("another message", lambda _, key: [(key, b'{"v":1,"kind":"fetch"}')], TrustError, "range"),
    ("not there", lying(status=404, data=b""), UpdateError, "not-found"),
    ("busy", lying(status=503, data=b""), UnreachableError, "unreachable"),
    ("mute", mute, UnreachableError, "unreachable"),
    ("mute in the middle", later(mute), UnreachableError, "slow"),
]


@pytest.mark.parametrize(
    ("talk", "kind", "code"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_each_kind_of_liar_has_its_refusal(
    tmp_path: Path, talk: Talk, kind: type[EdgetrtError], code: str
) -> None:
    server = Script(talk)

    with pytest.raises(kind) as refused:
        get(server.line, tmp_path, QUICK)

    assert refused.value.code == code  # type: ignore[attr-defined]
    assert not (tmp_path / WANTED.sha256).exists()
    # Whatever it did, an honest one brings the file afterwards.
    assert get(Script(honest).line, tmp_path).read_bytes() == DATA


def test_less_than_the_least_rate_is_too_slow(tmp_path: Path) -> None:
    crawling = Limits(answer_s=5, gap_s=5, window_s=0.1, window_bytes=1_000_000)

    with pytest.raises(UnreachableError) as refused:
        get(Script(slow).line, tmp_path, crawling)

    assert refused.value.code == "slow"


def test_a_download_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    dying = Script(later(mute, 10 * CHUNK))
    with pytest.raises(UnreachableError):
        get(dying.line, tmp_path, QUICK)

    back = Script(honest)
    assert get(back.line, tmp_path).read_bytes() == DATA

    assert back.asked[0].offset == 10 * CHUNK
    assert len(back.asked) == len(range(10 * CHUNK, len(DATA), CHUNK))


def test_a_part_that_is_behind_the_end_is_begun_anew(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        get(Script(later(mute)).line, tmp_path, QUICK)

    def shorter_first(wanted: wire.FetchMessage, key: bytes) -> Reply:
        lies = {"status": 416, "data": b"", "size": 5} if wanted.offset == 3 * CHUNK else {}
        return [(key, part(DATA, wanted, **lies if len(server.asked) == 1 else {}))]

    server = Script(shorter_first)
    assert get(server.line, tmp_path).read_bytes() == DATA
    assert [wanted.offset for wanted in server.asked[:2]] == [3 * CHUNK, 0]


@pytest.mark.parametrize(
    ("error", "code"), [(UnheardError("x"), "unreachable"), (NotConnectedError("away"), "lost")]
)
def test_a_request_that_reaches_nobody_is_told_at_once(
    tmp_path: Path, error: EdgetrtError, code: str
) -> None:
    line = Line()
    line.connect(lambda _payload, _key, failed: failed(error))  # type: ignore[arg-type]

    with pytest.raises(UnreachableError) as refused:
        get(line, tmp_path)

    assert refused.value.code == code


def test_the_broker_helps_out_where_a_web_server_is_away(tmp_path: Path) -> None:
    away = WebOrigin("http://127.0.0.1:1", QUICK)
    server = Script(honest)

    found = fetch(WANTED, [away, ChunkOrigin(server.line, "targets", QUICK)], tmp_path)

    assert found.read_bytes() == DATA
    assert server.asked


def test_without_an_agent_there_is_no_way(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="only a running agent"):
        get(Line(), tmp_path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    whole, block = 24 << 20, bytes(1 << 16)
    sha256 = hashlib.sha256()
    for _ in range(whole >> 16):
        sha256.update(block)
    line = Line()

    def post(payload: bytes, key: bytes, _: object) -> None:
        wanted = wire.decode(wire.FetchMessage, payload)
        chunk = wire.ChunkMessage(
            path=wanted.path, offset=wanted.offset, size=whole, data=block[: wanted.length]
        )
        line.take(key, wire.encode(chunk))

    line.connect(post)
    tracemalloc.start()
    try:
        fetch(Wanted("big", sha256.hexdigest(), whole), [ChunkOrigin(line, "targets")], tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_fetch_that_is_given_up_waits_for_nothing_any_more() -> None:
    kept = list[tuple[bytes, bytes]]()

    def keep(wanted: wire.FetchMessage, key: bytes) -> Reply:
        kept.append((key, part(DATA, wanted)))
        return [] if wanted.offset else kept

    server = Script(keep)
    with ChunkOrigin(server.line, "targets", QUICK, CHUNK).get("model.tar") as reply:
        chunks = iter(reply.chunks)
        next(chunks)
        with pytest.raises(UnreachableError):
            next(chunks)
    for key, answer in kept:
        server.line.take(key, answer)
    assert server.line.strays == len(kept) == 1 + WINDOW


# --- which way a device's settings lead -----------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "over"),
    [
        ({}, False),
        ({"repository": "https://x"}, False),
        ({"repository": "mqtt"}, True),
        ({"repository": "https://x", "mirrors": ("mqtt",)}, True),
    ],
)
def test_it_is_opt_in(tmp_path: Path, told: dict[str, object], over: bool) -> None:
    (tmp_path / "root.json").write_bytes(b"{}")
    config = UpdateConfig(root="root.json", **told)  # type: ignore[arg-type]

    local.assemble("cam-1", Host(), config, tmp_path / "agent.yaml", tmp_path / "update")

    assert local.is_over_mqtt(config) is over


# --- whose turn it is -----------------------------------------------------------------------------


def taken(turns: Turns[int], now_s: float = 0.0) -> list[str]:
    found = []
    while isinstance(turn := turns.take(now_s), tuple):
        found.append(turn[0])
    return found


def test_devices_take_turns_however_much_one_asks() -> None:
    turns: Turns[int] = Turns(0, 4)
    assert [turns.put("greedy", n, 10) for n in range(6)] == [True] * 4 + [False] * 2
    assert turns.put("modest", 0, 10)
    assert taken(turns) == ["greedy", "modest", "greedy", "greedy", "greedy"]
    assert turns.take(0.0) is None
    assert turns.put("greedy", 7, 10)


def test_no_device_gets_more_than_its_rate_and_none_waits_for_another() -> None:
    turns: Turns[int] = Turns(100.0, 16)
    for n in range(3):
        turns.put("greedy", n, 50)
    assert taken(turns) == ["greedy"]
    assert turns.take(0.1) == pytest.approx(0.4)
    turns.put("modest", 0, 50)
    assert taken(turns, 0.1) == ["modest"]
    assert taken(turns, 0.5) == ["greedy"]
    assert taken(turns, 0.99) == []
    assert taken(turns, 1.0) == ["greedy"]
    # Asking again and again does not make anybody's rate be forgotten.
    turns.put("greedy", 9, 50)
    assert turns.take(1.2) == pytest.approx(0.3)


def test_invented_names_fill_no_memory() -> None:
    turns: Turns[int] = Turns(100.0, 16)
    assert all(turns.put(f"x-{n}", n, 50, 1.0) for n in range(MOST_NAMES))
    assert not turns.put("one-more", 0, 50)
    assert turns.put("x-7", 0, 50, 3.0)
    # Nobody waits for them any more: they cost nothing, and make room.
    assert taken(turns, 2.0) == ["x-7"]
    assert turns.put("one-more", 0, 50)


# --- what is served -------------------------------------------------------------------------------


def site(folder: Path) -> Path:
    root = folder / "public"
    (root / "targets/deep").mkdir(parents=True)
    (root / "targets/deep/model.tar").write_bytes(DATA)
    (root / "targets/empty").write_bytes(b"")
    (root / "metadata").mkdir()
    (root / "metadata/timestamp.json").write_bytes(b"{}")
    (root / "keys").mkdir()
    (root / "keys/root.pem").write_bytes(b"private")
    (folder / "secret").write_bytes(b"secret")
    (root / "targets/link").symlink_to(folder / "secret")
    (root / "targets/near").symlink_to("empty")
    (root / "targets/away").symlink_to(folder)
    os.mkfifo(root / "targets/pipe")
    return root


@pytest.mark.parametrize(
    ("path", "offset", "status"),
    [
        ("targets/deep/model.tar", 0, 200),
        ("targets/deep/model.tar", len(DATA), 200),
        ("targets/deep/model.tar", len(DATA) + 1, 416),
        ("targets/empty", 0, 200),
        *(
            (path, 0, 404)
            for path in (
                "../secret", "targets/../../secret", "targets/../targets/empty", "/etc/passwd",
                "targets//empty", "targets/./empty", "targets/empty/", "targets", "targets/link",
                "targets/near", "targets/away/secret", "targets/pipe", "targets/empty/x", ".", "..",
                "keys/root.pem", "targets/none", "targets/a\0b", "x" * 500, "\ud800", "targets/%2e%2e/secret",
            )
        ),
    ],
)  # fmt: skip
def test_only_files_of_the_tree_are_read(
    tmp_path: Path, path: str, offset: int, status: int
) -> None:
    with contextlib.closing(Tree(site(tmp_path))) as tree:
        found = tree.read(path, offset, 10)
    assert found.status == status
    assert found.data == (DATA[offset : offset + 10] if "model" in path else b"")


def test_nothing_is_left_open(tmp_path: Path) -> None:
    with contextlib.closing(Tree(site(tmp_path))) as tree:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for path in ("targets/deep/model.tar", "targets/deep/none", "targets/link", "x/y"):
            tree.read(path, 0, 1)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot be served"):
        Tree(Path("/nonexistent"))


def test_a_folder_above_a_repository_is_refused(tmp_path: Path) -> None:
    site(tmp_path)
    with pytest.raises(ConfigError, match="timestamp") as refused:
        Tree(tmp_path)
    assert "public" in refused.value.hint


@pytest.mark.parametrize("look_s", [0.0, 9999.0])
def test_a_folder_that_was_replaced_is_followed(tmp_path: Path, look_s: float) -> None:
    root = site(tmp_path / "a")
    newer = site(tmp_path / "b")
    (newer / "targets/empty").write_bytes(b"newer")
    (newer / "targets/more").write_bytes(b"more")
    with contextlib.closing(Tree(root, look_s)) as tree:
        root.rename(tmp_path / "old")
        assert tree.read("targets/more", 0, 9).status == 404
        newer.rename(root)
        if look_s:
            assert tree.read("targets/more", 0, 9).data == b"more"
        assert tree.read("targets/empty", 0, 9).data == b"newer"


def test_a_disk_that_fails_is_no_missing_file(tmp_path: Path) -> None:
    tree = Tree(site(tmp_path))
    tree.close()
    assert tree.read("targets/x", 0, 1).status == 503


# --- who answers ----------------------------------------------------------------------------------


def test_what_is_no_request_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    good = wire.encode(wire.FetchMessage(path="targets/deep/model.tar", offset=5, length=10))
    own, key = wire.chunk("cam-1"), b"key"
    bad = [
        (wire.fetch("cam-1"), b"{}", Exchange(own, key)),
        (wire.fetch("cam-1"), good + b" " * 3000, Exchange(own, key)),
        (wire.fetch("cam-1"), good, Exchange(own)),
        (wire.fetch("cam-1"), good, Exchange(own, key * 30)),
        (wire.fetch("cam-1"), good, Exchange(wire.chunk("cam-2"), key)),
        (wire.fetch("cam-1"), good, Exchange(wire.desired("cam-1"), key)),
        (wire.cmd("cam-1"), good, Exchange(own, key)),
        ("elsewhere", good, Exchange(own, key)),
    ]
    huge = wire.encode(wire.FetchMessage(path="x", offset=0, length=1)).replace(b":1}", b":131073}")
    bad.append((wire.fetch("cam-1"), huge, Exchange(own, key)))

    async def run() -> tuple[ChunkServer, FakeTransport]:
        transport = FakeTransport()
        async with transport:
            with contextlib.closing(Tree(site(tmp_path))) as tree:
                server = ChunkServer(tree, transport)
                serving = asyncio.create_task(server.run())
                for topic, payload, exchange in bad:
                    transport.deliver(topic, payload, exchange=exchange)
                transport.deliver(
                    wire.fetch("cam-1"), good, retained=True, exchange=Exchange(own, key)
                )
                transport.deliver(
                    wire.fetch("cam-1"), good, expires_ns=1, exchange=Exchange(own, b"late")
                )
                transport.deliver(wire.fetch("cam-1"), good, exchange=Exchange("", key))
                for _ in range(1000):
                    await asyncio.sleep(0)
                serving.cancel()
                await asyncio.wait([serving])
        return server, transport

    server, transport = asyncio.run(run())
    assert (server.refused, server.sent, transport.correlations) == (len(bad) + 1, 1, [key])
    ((topic, payload, retained),) = transport.published
    chunk = wire.decode(wire.ChunkMessage, payload)
    assert (topic, retained, chunk.data) == (own, False, DATA[5:15])


def test_a_server_holds_a_few_chunks_however_many_are_asked_for(tmp_path: Path) -> None:
    good = wire.encode(wire.FetchMessage(path="targets/deep/model.tar", offset=0, length=10))

    async def run() -> int:
        transport = FakeTransport()
        async with transport:
            transport.hold = True
            with contextlib.closing(Tree(site(tmp_path))) as tree:
                serving = asyncio.create_task(ChunkServer(tree, transport).run())
                for n in range(100):
                    asked = Exchange(wire.chunk(f"cam-{n}"), b"key")
                    transport.deliver(wire.fetch(f"cam-{n}"), good, exchange=asked)
                for _ in range(1000):
                    await asyncio.sleep(0)
                held = len(transport.waiting)
                transport.release()
                for _ in range(1000):
                    await asyncio.sleep(0)
                serving.cancel()
                await asyncio.wait([serving])
        assert len(transport.published) == 100
        return held

    assert asyncio.run(run()) == 16
