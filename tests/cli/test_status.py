"""`edgetrt status`: the agent's own words, and whether they are still true."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from edgetrt.agent import status
from edgetrt.agent.identity import boot_id
from edgetrt.types import BoardState, Counters, StageStats
from edgetrt.wire import (
    AgentReport,
    ClockReport,
    HealthMessage,
    OutboxReport,
    PipelineReport,
    Reason,
)
from tests.cli.command import edgetrt

PIPELINE = PipelineReport(
    pipeline="street",
    state="running",
    backend="onnxruntime",
    engine="6f1c0a52",
    fps=9.5,
    latency=StageStats(12.5, 20.25, 13.0),
    stages={},
    counters=Counters(read=10, done=7, dropped=3),
)
SLOW = Reason(state="degraded", code="rate", about="street", text="3.20 Hz of 10 [demanded]")


def write(folder: Path, *reasons: Reason, ago_s: float = 0.0) -> None:
    health = HealthMessage(
        device="cam-1",
        epoch=3,
        seq=9,
        time=1.8e9,
        version="0.2.0",
        agent=AgentReport(rss_bytes=31_000_000, uptime_s=5.0, received=7, published=6),
        pipelines=(PIPELINE,),
        state=reasons[0].state if reasons else "ok",
        reasons=reasons,
        board=BoardState("MODE_30W", {"cpu-thermal": 61.5, "gpu-thermal": 58.0}, headroom_c=37.5),
        outbox=OutboxReport(store="disk", rows={"result": 4}, bytes={"result": 400}),
        clock=ClockReport(
            boot=boot_id(), mono_ns=time.monotonic_ns() - round(ago_s * 1e9), synced=True
        ),
    )
    found = status.Status(
        health=health, connected=False, broker="broker x: refuses", pid=1, period_s=3600.0
    )
    assert status.write(folder, found)


def test_a_device_that_is_well_exits_with_0(tmp_path: Path) -> None:
    write(tmp_path)
    done = edgetrt("status", "--run-dir", tmp_path)
    assert done.code == 0, done.err
    for word in ("cam-1", "ok", "street", "running", "9.5", "20.2", "6f1c0a52", "4 messages"):
        assert word in done.out, word
    assert "broker x: refuses" in done.out
    told = "power mode MODE_30W, 61.5 °C at cpu-thermal, 37.5 below slowing down"
    assert told in done.out


def test_reasons_are_told_and_exit_with_1(tmp_path: Path) -> None:
    write(tmp_path, SLOW)
    done = edgetrt("status", "--run-dir", tmp_path)
    assert done.code == 1
    assert "degraded" in done.out
    assert SLOW.text in done.out
    told = edgetrt("status", "--run-dir", tmp_path, "--json")
    assert told.code == 1
    report = told.json()
    assert (report["ok"], report["silent_s"]) == (False, None)
    assert report["status"]["health"]["reasons"] == [msgspec.to_builtins(SLOW)]


def test_an_agent_that_fell_silent_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path, ago_s=3 * 3600 + 60)
    done = edgetrt("status", "--run-dir", tmp_path)
    assert done.code == 1
    assert "not running" in done.out
    assert edgetrt("status", "--run-dir", tmp_path, "--json").json()["silent_s"] > 3 * 3600


def test_without_an_agent_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = edgetrt("status", "--run-dir", tmp_path)
    assert done.code == 69
    assert "no agent" in done.err
    assert "edgetrt up" in done.err
    up = tmp_path / "edgetrt-up-x"
    up.mkdir()
    write(up)
    assert f"edgetrt status --run-dir {up}" in edgetrt("status", "--run-dir", tmp_path).err
