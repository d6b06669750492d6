"""What health says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgetrt.agent.health import LinkLosses, Pipelines, health_message
from edgetrt.agent.identity import Identity, boot_id, identify
from edgetrt.agent.verdict import Verdict
from edgetrt.config import DeviceConfig
from edgetrt.errors import ConfigError
from edgetrt.memory import resident_bytes
from edgetrt.types import BoardState, Counters
from edgetrt.wire import (
    AgentReport,
    ClockReport,
    MachineReport,
    OutboxReport,
    PipelineReport,
    Reason,
)

SECOND = 1_000_000_000
RUNNING = PipelineReport(
    pipeline="street",
    state="running",
    backend="fake",
    engine="e",
    fps=10.0,
    latency=None,
    stages={},
    counters=Counters(),
)


def test_only_a_new_pipeline_or_another_state_is_a_change() -> None:
    pipelines = Pipelines()
    assert pipelines.put(RUNNING, 0)
    assert not pipelines.put(msgspec.structs.replace(RUNNING, fps=3.0), 1)
    assert pipelines.put(msgspec.structs.replace(RUNNING, state="backoff"), 2)
    assert pipelines.put(msgspec.structs.replace(RUNNING, pipeline="yard"), 3)


def test_reports_are_the_latest_by_name_and_grow_old() -> None:
    pipelines = Pipelines()
    pipelines.put(msgspec.structs.replace(RUNNING, pipeline="yard"), 1 * SECOND)
    pipelines.put(RUNNING, 2 * SECOND)
    pipelines.put(msgspec.structs.replace(RUNNING, fps=4.0), 3 * SECOND)
    reports = pipelines.reports(5 * SECOND)
    assert [(r.pipeline, r.fps, r.age_s) for r in reports] == [
        ("street", 4.0, 2.0),
        ("yard", 10.0, 4.0),
    ]


def test_link_losses_add_up_over_pipelines_and_restarts_of_the_runtime() -> None:
    losses = LinkLosses()
    for pipeline, unsent in [("a", 0), ("a", 3), ("b", 2), ("a", 3), ("a", 5), ("a", 1), ("a", 4)]:
        losses.put(pipeline, unsent)
    assert losses.total == 5 + 2 + 4


def test_the_message_carries_who_and_when() -> None:
    report = AgentReport(rss_bytes=None, uptime_s=1.0, received=2)
    reason = Reason(state="degraded", code="rate", about="street", text="slow")
    outbox, clock = OutboxReport(store="disk"), ClockReport(boot="b", mono_ns=5, synced=True)
    message = health_message(
        Identity("cam-1", 7),
        3,
        9.87654,
        report,
        (RUNNING,),
        Verdict("degraded", (reason,)),
        outbox,
        MachineReport(disk_free=1),
        BoardState(power_mode="15W"),
        clock,
    )
    assert (message.state, message.reasons) == ("degraded", (reason,))
    assert message.board.power_mode == "15W"
    assert (message.outbox, message.machine.disk_free, message.clock) == (outbox, 1, clock)
    assert (message.device, message.epoch, message.seq, message.time) == ("cam-1", 7, 3, 9.877)
    assert message.agent == report
    assert message.pipelines == (RUNNING,)


@pytest.mark.parametrize(
    ("hostname", "device"),
    [("cam-1", "cam-1"), ("Jetson_Orin.local", "jetson-orin"), ("x" * 80, "x" * 63)],
)
def test_a_device_without_a_name_takes_the_host_s(hostname: str, device: str) -> None:
    assert identify(DeviceConfig(), 5, hostname).device == device


def test_a_configured_name_wins_and_a_host_without_one_is_told() -> None:
    assert identify(DeviceConfig(device="cam-9"), 5, "other").device == "cam-9"
    with pytest.raises(ConfigError, match="device"):
        identify(DeviceConfig(), 5, "___")


def test_what_the_system_does_not_tell_is_none(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path) is None
    assert boot_id(tmp_path) == ""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("Name:\tx\nVmRSS:\t   28152 kB\n")
    assert resident_bytes(tmp_path) == 28152 * 1024
