"""What is seen on the device itself: the status file, the page of metrics, the counter of starts."""

from __future__ import annotations

import asyncio
import http.client
import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from edgetrt.agent import machine, metrics, status
from edgetrt.agent.epoch import next_epoch
from edgetrt.cli.status import page
from edgetrt.errors import TransportError
from edgetrt.types import BoardState, Counters, StageStats
from edgetrt.wire import (
    AgentReport,
    ClockReport,
    HealthMessage,
    MachineReport,
    OutboxReport,
    PipelineReport,
    Reason,
    UpdateReport,
)
from tests.broker import free_port

NOW_MS = 1_795_000_000_000
SECOND = 1_000_000_000
HEALTH = HealthMessage(
    device="cam-1",
    epoch=3,
    seq=9,
    time=1.8e9,
    version="0.2.0",
    agent=AgentReport(rss_bytes=31_000_000, uptime_s=5.0, received=7, published=6, pending=1),
    pipelines=(
        PipelineReport(
            pipeline="street",
            state="running",
            backend='a"b\\c\nd',
            engine="abc",
            fps=9.5,
            latency=StageStats(10.0, 20.0, 11.0),
            stages={},
            counters=Counters(read=10, done=7, dropped=3),
        ),
    ),
    state="degraded",
    reasons=(Reason(state="degraded", code="rate", about="street", text="slow"),),
    outbox=OutboxReport(rows={"result": 4}, bytes={"result": 400}, dropped={"result": 2}),
    machine=MachineReport(memory_total=8_000_000_000),
    board=BoardState("15W", {"cpu-thermal": 61.5}, overcurrents=3),
    clock=ClockReport(boot="b", mono_ns=100 * SECOND),
)
STATUS = status.Status(health=HEALTH, connected=True, broker="", pid=1, period_s=5.0)


def test_the_status_file_is_read_back_and_replaced_as_a_whole(tmp_path: Path) -> None:
    assert status.write(tmp_path, STATUS)
    assert status.write(tmp_path, msgspec.structs.replace(STATUS, connected=False))
    assert status.read(tmp_path) == msgspec.structs.replace(STATUS, connected=False)
    assert [file.name for file in tmp_path.iterdir()] == [status.FILE]


def test_no_status_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no agent") as caught:
        status.read(tmp_path)
    assert "running" in caught.value.hint
    (tmp_path / status.FILE).write_bytes(b"\xff{")
    with pytest.raises(TransportError, match="cannot be read"):
        status.read(tmp_path)
    assert not status.write(tmp_path / "nowhere", STATUS)


def test_an_agent_that_is_overdue_is_not_believed() -> None:
    assert status.silent_s(STATUS, 110 * SECOND, "b") is None
    assert status.silent_s(STATUS, 120 * SECOND, "b") == 20.0
    assert status.silent_s(STATUS, 101 * SECOND, "another") == float("inf")


def test_the_page_of_metrics_has_every_number_and_no_unknown_one() -> None:
    lines = metrics.render(HEALTH, connected=True).splitlines()
    assert 'edgetrt_pipeline_rate_hz{pipeline="street"} 9.5' in lines
    assert 'edgetrt_pipeline_latency_seconds{pipeline="street",quantile="0.99"} 0.02' in lines
    assert 'edgetrt_outbox_dropped_total{class="result"} 2' in lines
    assert 'edgetrt_reason{code="rate",about="street"} 1' in lines
    assert "edgetrt_state 1" in lines
    assert "edgetrt_machine_memory_size_bytes 8000000000" in lines
    assert not any("disk" in line for line in lines)
    assert 'edgetrt_board_info{power_mode="15W"} 1' in lines
    assert 'edgetrt_board_temperature_celsius{zone="cpu-thermal"} 61.5' in lines
    assert "edgetrt_board_overcurrents_total 3" in lines
    assert not any("headroom" in line for line in lines)
    assert any(r'backend="a\"b\\c\nd"' in line for line in lines)
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    names = [line.partition("{")[0].split()[0] for line in lines if not line.startswith("#")]
    assert names == sorted(names)


def test_the_page_is_served_on_loopback_and_nothing_else_is() -> None:
    def ask(port: int, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    async def scenario() -> None:
        port = free_port()
        serving = asyncio.create_task(metrics.serve(port, lambda: "page\n"))
        for _ in range(100):
            await asyncio.sleep(0.01)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            break
        # Not HTTP: closed, and the next one is served.
        writer.write(b"\x00" * 9000 + b"\r\n\r\n")
        await writer.drain()
        writer.close()
        answers = [
            await asyncio.to_thread(ask, port, *request)
            for request in (("GET", "/metrics"), ("GET", "/"), ("POST", "/metrics"))
        ]
        assert answers == [(200, b"page\n"), (404, b""), (405, b"")]
        serving.cancel()
        await asyncio.wait([serving])

    asyncio.run(scenario())


def test_each_start_counts_one_more_whatever_the_clock_says(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = next_epoch(folder, NOW_MS)
    assert first == NOW_MS
    assert [next_epoch(folder, now) for now in (NOW_MS - 10**9, 5, NOW_MS)] == [
        first + 1,
        first + 2,
        first + 3,
    ]


@pytest.mark.parametrize("content", [b"", b"x", b"\xff", b"-4", b"9" * 40])
def test_a_counter_that_was_lost_begins_at_the_time(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "epoch").write_bytes(content)
    assert next_epoch(tmp_path, NOW_MS) == NOW_MS
    assert next_epoch(tmp_path, NOW_MS) == NOW_MS + 1


def test_a_counter_that_cannot_be_stored_is_not_used_twice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = tmp_path / "file" / "state"
    assert next_epoch(nowhere, NOW_MS) == NOW_MS
    assert next_epoch(None, NOW_MS + 1) == NOW_MS + 1
    # A clock that starts in 1970 at each boot would give the same again.
    assert len({next_epoch(None, 20_000) for _ in range(20)}) == 20


def test_what_the_machine_tells(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       8000 kB\nMemAvailable:   4000 kB\nX: 1\n")
    found = machine.machine(tmp_path / "not" / "there" / "yet", tmp_path)
    assert (found.memory_total, found.memory_available) == (8_192_000, 4_096_000)
    assert found.disk_total is not None
    assert found.disk_free is not None
    assert 0 <= found.disk_free <= found.disk_total
    assert machine.machine(None, tmp_path / "nothing") == MachineReport()


def test_whether_the_clock_was_set(tmp_path: Path) -> None:
    assert machine.synced(1.8e9, tmp_path) is None
    assert machine.synced(100.0, tmp_path) is False
    folder = tmp_path / "systemd" / "timesync"
    folder.mkdir(parents=True)
    assert machine.synced(1.8e9, tmp_path) is False
    (folder / "synchronized").touch()
    assert machine.synced(1.8e9, tmp_path) is True


@pytest.mark.parametrize(
    ("update", "told"),
    [
        (UpdateReport(), "no release serves"),
        (UpdateReport(serving="a" * 64), "release aaaaaaaaaaaa serves"),
        (
            UpdateReport(
                target="releases/street-2.tar", state="BUILD", held="its engines are made"
            ),
            "releases/street-2.tar: BUILD – its engines are made",
        ),
        (
            UpdateReport(digest="b" * 64, state="PROVE", code="ROLLED_BACK", detail="fps: 11 Hz"),
            "bbbbbbbbbbbb: ROLLED_BACK – fps: 11 Hz",
        ),
        (UpdateReport(fault="another process works on updates"), "another process works"),
    ],
)
def test_how_far_an_update_is_stands_in_the_status(
    tmp_path: Path, update: UpdateReport, told: str
) -> None:
    found = msgspec.structs.replace(STATUS, update=update)
    assert status.write(tmp_path, found)
    shown = io.StringIO()
    Console(width=200, file=shown).print(page(status.read(tmp_path), None))

    assert told in shown.getvalue()
