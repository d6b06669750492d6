"""Settings from afar: kept, told to the runtime until they are in force, and told about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetrt import wire
from edgetrt.agent.control import Control
from edgetrt.agent.identity import Identity
from edgetrt.agent.verdict import Facts, judge
from edgetrt.config import ControlConfig, DeviceConfig, HealthConfig, PipelineSettings, UpdateConfig
from edgetrt.errors import MessageError
from edgetrt.types import Counters
from tests.agent.asking import Events, Moment
from tests.fakes import FakeMessage, FakeTransport

DESIRED = wire.desired("cam-1")


def report(name: str = "street", **said: Any) -> wire.PipelineReport:
    return wire.PipelineReport(
        pipeline=name,
        state="running",
        backend="fake",
        engine="e",
        fps=1.0,
        latency=None,
        stages={},
        counters=Counters(),
        **said,
    )


class Rig:
    """A `Control` with a runtime that writes down what it is told."""

    def __init__(self, folder: Path | None, unsigned: bool = True) -> None:
        self.told: list[wire.SettingsMessage] = []
        self.changes = 0
        self.control = Control(folder, self._tell, self._changed, unsigned)

    def _tell(self, message: wire.Struct) -> bool:
        assert isinstance(message, wire.SettingsMessage)
        self.told.append(message)
        return True

    def _changed(self) -> None:
        self.changes += 1


def plain(generation: int, **settings: dict[str, Any]) -> FakeMessage:
    message = wire.DesiredMessage(generation=generation, settings=settings)
    return FakeMessage(DESIRED, wire.encode(message))


def test_what_is_not_in_force_is_told_until_it_is() -> None:
    rig = Rig(None)
    rig.control.look(report())
    assert rig.told == []
    assert rig.control.settle(3, {"street": PipelineSettings(score=0.4, only=("person",))})
    wanted = {"score": 0.4, "only": ["person"]}
    for _ in range(2):
        rig.control.look(report())
    assert [(m.generation, m.settings) for m in rig.told] == [(3, wanted)] * 2
    rig.control.look(report(generation=3, settings=wanted))
    assert len(rig.told) == 2
    # A runtime that has started anew says generation 0 again.
    rig.control.look(report())
    assert len(rig.told) == 3


def test_a_pipeline_that_is_left_out_runs_as_its_file_says() -> None:
    rig = Rig(None)
    rig.control.settle(3, {"street": PipelineSettings(score=0.4)})
    rig.control.settle(4, {})
    rig.control.look(report(generation=3, settings={"score": 0.4}))
    assert [(m.generation, m.settings) for m in rig.told] == [(4, {})]


def test_older_generations_are_left_alone_and_signed_ones_are_their_own_count() -> None:
    rig = Rig(None)
    rig.control.take(plain(2**53, street={"score": 0.1}))
    assert rig.control.wanted.generation == 2**53
    # Who could write here before there was a trust root must not have the last word for ever.
    assert rig.control.settle(5, {"street": PipelineSettings(score=0.5)})
    assert not rig.control.settle(5, {"street": PipelineSettings(score=0.6)})
    assert not rig.control.settle(4, {})
    assert rig.control.wanted.settings == {"street": PipelineSettings(score=0.5)}


def test_settings_outlive_a_restart_and_a_damaged_file_is_left(tmp_path: Path) -> None:
    Rig(tmp_path).control.settle(3, {"street": PipelineSettings(rate_hz=5.0)})
    again = Rig(tmp_path)
    again.control.look(report())
    assert [(m.generation, m.settings) for m in again.told] == [(3, {"rate_hz": 5.0})]
    (tmp_path / "settings.json").write_bytes(b"\xff{")
    assert Rig(tmp_path).control.wanted.generation == 0


def test_a_disk_that_keeps_nothing_does_not_stop_them(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    rig = Rig(tmp_path / "state")
    assert rig.control.settle(3, {"street": PipelineSettings(rate_hz=5.0)})
    rig.control.look(report())
    assert len(rig.told) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"score": 2.0},
        {"score": "high"},
        {"rate_hz": -1},
        {"max_objects": 0},
        {"nonsense": 1},
        {"only": "person"},
    ],
)
def test_a_value_that_is_refused_changes_nothing_and_is_told(settings: dict[str, Any]) -> None:
    rig = Rig(None)
    rig.control.take(plain(1, street={"score": 0.3}))
    with pytest.raises(MessageError):
        rig.control.take(plain(2, street=settings))
    assert rig.control.wanted.settings == {"street": PipelineSettings(score=0.3)}
    reports = (report(generation=1, settings={"score": 0.3}),)
    assert "generation 2 was refused" in rig.control.unsettled(reports)["desired"]
    assert [r.about for r in rig.control.reasons(reports)] == ["desired"]
    rig.control.take(plain(3, street={}))
    assert rig.control.refusal == ""


def test_what_differs_is_a_reason_of_the_verdict() -> None:
    rig = Rig(None)
    rig.control.settle(
        2, {"street": PipelineSettings(only=("tiger",)), "gone": PipelineSettings(score=0.1)}
    )
    assert rig.control.reasons(()) == ()  # no runtime has said anything yet
    pending = (report(generation=1),)
    assert rig.control.unsettled(pending)["street"] == "looked at generation 1 last"
    assert [r.about for r in rig.control.reasons(pending)] == ["gone"]
    refused = (report(generation=2, unsettled="no class 'tiger'"),)
    reasons = rig.control.reasons(refused)
    assert {(r.about, r.text) for r in reasons} == {
        ("gone", "no pipeline of that name reports here"),
        ("street", "no class 'tiger'"),
    }
    facts = Facts(refused, wire.AgentReport(rss_bytes=None, uptime_s=1.0), settings=reasons)
    assert judge(facts, HealthConfig()).state == "degraded"


def test_a_pipeline_is_judged_by_the_rate_that_is_in_force() -> None:
    from edgetrt.agent.verdict import Demand

    slow = msgspec.structs.replace(
        report(settings={"rate_hz": 1.0}), fps=1.0, counters=Counters(read=50, done=50)
    )
    facts = Facts(
        (slow,), wire.AgentReport(rss_bytes=None, uptime_s=1.0), {"street": Demand(rate_hz=10.0)}
    )
    assert judge(facts, HealthConfig()).reasons == ()


def test_a_runtime_that_took_it_is_no_news_twice() -> None:
    rig = Rig(None)
    rig.control.settle(1, {"street": PipelineSettings(score=0.4)})
    before = rig.changes
    for _ in range(3):
        rig.control.look(report(generation=1, settings={"score": 0.4}))
    assert rig.changes == before + 1


def test_an_emptied_topic_leaves_what_is_in_force() -> None:
    rig = Rig(None)
    rig.control.take(plain(1, street={"score": 0.3}))
    rig.control.take(FakeMessage(DESIRED, b""))
    assert rig.control.wanted.generation == 1


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        (DeviceConfig(), False),
        (DeviceConfig(control=ControlConfig(unsigned_settings=True)), True),
        (
            DeviceConfig(
                control=ControlConfig(unsigned_settings=True), update=UpdateConfig(root="root.json")
            ),
            False,
        ),
    ],
)
def test_plain_settings_are_taken_only_where_they_are_allowed(
    config: DeviceConfig, taken: bool
) -> None:
    from edgetrt.agent.remote import Remote

    remote = Remote(
        Identity("cam-1", 7),
        config,
        FakeTransport(),
        Events(),  # type: ignore[arg-type]
        lambda: Moment(1.8e9, 1, "boot"),
        tuple,
        lambda: None,
        lambda: None,
    )
    remote._inbound.take(plain(1, street={"score": 0.3}))
    assert (remote.control.wanted.generation, remote.refused) == ((1, 0) if taken else (0, 1))


def test_what_came_unsigned_ends_with_the_word_that_let_it_in(tmp_path: Path) -> None:
    Rig(tmp_path).control.take(plain(1, street={"enabled": False}))

    assert Rig(tmp_path).control.wanted.generation == 1
    assert Rig(tmp_path, unsigned=False).control.wanted.generation == 0
