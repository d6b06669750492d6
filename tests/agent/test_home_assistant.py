"""What Home Assistant is told: by its documented form, by its templates, and through a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
from jinja2.sandbox import SandboxedEnvironment

from edgetrt import document, wire
from edgetrt.agent.agent import Agent
from edgetrt.agent.discovery import Known, components, discovery, known_of
from edgetrt.agent.home_assistant import FILE, HomeAssistant
from edgetrt.agent.identity import Identity
from edgetrt.config import DeviceConfig, HomeAssistantConfig, OutboxConfig
from edgetrt.errors import ConfigError
from edgetrt.link import Receiver
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from edgetrt.types import BoardState
from tests.agent.test_local import HEALTH
from tests.chaos import DEVICE
from tests.fakes import FakeTransport
from tests.mqtt.test_access import party
from tests.site import HOME_ASSISTANT, site

ME = Identity(DEVICE, 7, "0.2.0", "boot")
TOPIC = f"homeassistant/device/edgetrt/{DEVICE}/config"
ON = HomeAssistantConfig()
JETSON = msgspec.structs.replace(
    HEALTH, board=BoardState(power_mode="MAXN", temperatures_c={"cpu-thermal": 51.5, "tj": 52.0})
)
KNOWN = Known(("street", "yard"), ("cpu-thermal", "tj"), True)

TEXT, LIST, MAP, WHOLE, FLAG = (str,), (list,), (dict,), (int,), (bool,)
ENTITY = {
    "availability": LIST, "availability_mode": TEXT, "availability_topic": TEXT, "device": MAP,
    "device_class": TEXT, "enabled_by_default": FLAG, "encoding": TEXT, "entity_category": TEXT,
    "entity_picture": TEXT, "expire_after": WHOLE, "force_update": FLAG, "icon": TEXT,
    "json_attributes_template": TEXT, "json_attributes_topic": TEXT, "name": TEXT, "object_id": TEXT,
    "payload_available": TEXT, "payload_not_available": TEXT, "platform": TEXT, "qos": WHOLE,
    "state_topic": TEXT, "unique_id": TEXT, "value_template": TEXT,
}  # fmt: skip
PLATFORMS: dict[str, dict[str, tuple[type, ...]]] = {
    "sensor": {
        **ENTITY, "last_reset_value_template": TEXT, "options": LIST, "state_class": TEXT,
        "suggested_display_precision": WHOLE, "unit_of_measurement": TEXT,
    },
    "binary_sensor": {**ENTITY, "off_delay": WHOLE, "payload_off": TEXT, "payload_on": TEXT},
}  # fmt: skip
ROOT = {
    "device": MAP, "origin": MAP, "components": MAP, "availability": LIST, "availability_mode": TEXT,
    "command_topic": TEXT, "state_topic": TEXT, "qos": WHOLE, "encoding": TEXT,
}  # fmt: skip
DEVICE_KEYS = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model",
    "model_id", "name", "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
ORIGIN_KEYS = {"name", "sw_version", "support_url"}
CLASSES = {
    "sensor": {"duration": {"d", "h", "min", "s", "ms", "µs"}, "temperature": {"°C", "°F", "K"}},
    "binary_sensor": {"connectivity": {None}, "problem": {None}},
}
"""Keys, types and units as https://www.home-assistant.io/integrations/mqtt/ and its pages say."""


def told(known: Known = KNOWN, gone: Mapping[str, str] | None = None) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(discovery(ME, known, gone or {}))
    return message


def test_the_message_has_the_documented_form() -> None:
    message = told()
    for key, value in message.items():
        assert isinstance(value, ROOT[key]), key
    assert message.keys() >= {"device", "origin", "components"}
    assert message["device"].keys() <= DEVICE_KEYS
    assert message["device"]["identifiers"]
    assert message["origin"].keys() <= ORIGIN_KEYS
    assert message["origin"]["name"] == "edgetrt"
    ids = [part["unique_id"] for part in message["components"].values()]
    assert len(ids) == len(set(ids)) == 2 + 2 * 4 + 2 + 1
    for name, part in message["components"].items():
        allowed = PLATFORMS[part["platform"]]
        for key, value in part.items():
            assert isinstance(value, allowed[key]), f"{name}: {key}"
        assert part["state_topic"].startswith(f"edgetrt/v1/u/{DEVICE}/")
        assert part.get("entity_category") in (None, "diagnostic")
        if "device_class" in part:
            units = CLASSES[part["platform"]][part["device_class"]]
            assert part.get("unit_of_measurement") in units
        for place in part.get("availability", ()):
            assert place.keys() == {"topic", "value_template"}


def test_ids_stay_whatever_else_there_is() -> None:
    alone = components(DEVICE, Known(("street",)))
    among = components(DEVICE, KNOWN)
    for key, part in alone.items():
        assert among[key] == part
    # Two devices and two pipelines are never taken for each other, whatever '-' their names have.
    for other in (
        components("cam-1-street", Known(("objects",))),
        components("cam", Known(("1-street",))),
    ):
        mine = {part["unique_id"] for part in among.values()}
        assert mine.isdisjoint(part["unique_id"] for part in other.values())


def rendered(template: str, payload: bytes, state: str = "before") -> str:
    """As Home Assistant does: a sandbox, the payload's JSON, and the state that is there."""
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    this = {"state": state}
    return (
        environment.from_string(template).render(value_json=json.loads(payload), this=this).strip()
    )


def values(health: wire.HealthMessage) -> dict[str, str]:
    """What every entity shows after these messages."""
    box = wire.Box(box=(1.0, 2.0, 3.0, 4.0), score=0.9, label="person", class_=0)
    frame = wire.FrameResult(
        pipeline="street", frame=1, mono_ns=1, size=(8, 6), engine="e", latency_ms=1.0,
        objects=(box, box, box),
    )  # fmt: skip
    result = wire.stamp(frame, device=DEVICE, epoch=1, seq=1, time_s=1.8e9, boot="b")
    if health.historical:
        result = msgspec.structs.replace(result, historical=True)
    status = wire.StatusMessage(device=DEVICE, online=True, epoch=1, time=1.8e9, version="0")
    bodies = {
        wire.health(DEVICE): wire.encode(health),
        wire.status(DEVICE): wire.encode(status),
        wire.result(DEVICE, "street"): wire.encode(result),
    }
    parts = components(DEVICE, known_of(health, ("street",)))
    for part in parts.values():
        for place in part.get("availability", ()):
            assert rendered(place["value_template"], bodies[place["topic"]]) == "online"
    return {
        key: rendered(part["value_template"], bodies[part["state_topic"]])
        for key, part in parts.items()
    }


def test_the_templates_read_the_messages_that_are_sent() -> None:
    assert values(JETSON) == {
        "connectivity": "ON",
        "problem": "ON",
        "street_objects": "3",
        "street_latency_p50": "10.0",
        "street_latency_p99": "20.0",
        "street_fps": "9.5",
        "temperature_cpu-thermal": "51.5",
        "temperature_tj": "52.0",
        "power_mode": "MAXN",
    }


def test_what_is_not_known_is_unknown_and_not_zero() -> None:
    (street,) = HEALTH.pipelines
    before = msgspec.structs.replace(street, latency=None, fps=0.0)
    starting = values(msgspec.structs.replace(HEALTH, pipelines=(before,), state="ok", reasons=()))
    assert starting["problem"] == "OFF"
    # `None` is how Home Assistant is told that a value is not known.
    assert (starting["street_latency_p50"], starting["street_fps"]) == ("None", "None")
    absent = values(msgspec.structs.replace(HEALTH, pipelines=(), board=BoardState()))
    assert absent["street_latency_p99"] == "None"
    assert "power_mode" not in absent


def test_what_waited_does_not_change_what_is_shown() -> None:
    # An empty text is ignored where a number or on and off are expected.
    late = values(msgspec.structs.replace(JETSON, historical=True))
    assert late.pop("power_mode") == "before"
    assert late.pop("connectivity") == "ON"
    assert set(late.values()) == {""}


def test_the_reasons_are_attributes() -> None:
    problem = components(DEVICE, KNOWN)["problem"]
    shown = json.loads(rendered(problem["json_attributes_template"], wire.encode(HEALTH)))
    assert shown["reasons"][0]["text"] == "slow"


def test_the_count_of_a_pipeline_that_does_not_count_stays_empty() -> None:
    template = components(DEVICE, KNOWN)["street_objects"]["value_template"]
    assert rendered(template, b'{"historical": false, "objects": null}') == ""
    assert rendered(template, b'{"historical": false, "objects": []}') == "0"


class Rig:
    """The announcer over a broker in memory."""

    def __init__(self, folder: Path, config: HomeAssistantConfig | None = ON) -> None:
        self.transport = FakeTransport()
        self.health: wire.HealthMessage | None = HEALTH
        self.pipelines = ["street"]
        self.announcer = HomeAssistant(
            config, ME, self.transport, lambda: self.health, lambda: self.pipelines, folder,
            look_s=0.01, grace_s=0.0,
        )  # fmt: skip

    @property
    def published(self) -> list[tuple[str, dict[str, Any] | None]]:
        assert all(retain for _, _, retain in self.transport.published)
        return [
            (on, json.loads(body) if body else None) for on, body, _ in self.transport.published
        ]

    async def until(self, met: Callable[[], bool]) -> None:
        for _ in range(2000):
            if met():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(self.published)

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with self.transport:
                work = asyncio.create_task(self.announcer.run())
                try:
                    await asyncio.wait_for(scenario(), 60)
                finally:
                    work.cancel()
                    await asyncio.wait([work])

        asyncio.run(bounded())


def test_it_is_told_once_a_connection_and_when_it_changes(tmp_path: Path) -> None:
    rig = Rig(tmp_path)

    async def scenario() -> None:
        await rig.until(lambda: len(rig.published) == 1)
        await asyncio.sleep(0.1)
        assert len(rig.published) == 1
        rig.transport.go_offline()
        rig.transport.go_online()
        await rig.until(lambda: len(rig.published) == 2)
        rig.pipelines.append("yard")
        await rig.until(lambda: len(rig.published) == 3)

    rig.run(scenario)
    assert {on for on, _ in rig.published} == {TOPIC}
    first, second, third = (body for _, body in rig.published)
    assert first == second
    assert third is not None
    assert "yard_fps" in third["components"]


def test_a_pipeline_that_goes_takes_its_entities_along_also_over_a_restart(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.pipelines.append("yard")
    first.run(lambda: first.until(lambda: len(first.published) == 1))
    second = Rig(tmp_path)
    second.run(lambda: second.until(lambda: len(second.published) == 1))
    parts = (second.published[0][1] or {})["components"]
    assert parts["yard_fps"] == {"platform": "sensor"}
    assert "unique_id" in parts["street_fps"]
    third = Rig(tmp_path)
    third.pipelines.append("yard")
    third.run(lambda: third.until(lambda: len(third.published) == 1))
    assert third.published == first.published


def test_switched_off_the_message_is_taken_away_once(tmp_path: Path) -> None:
    on = Rig(tmp_path)
    on.run(lambda: on.until(lambda: len(on.published) == 1))
    off = Rig(tmp_path, None)
    assert not off.announcer.idle
    off.run(lambda: off.until(lambda: off.announcer.idle))
    assert off.published == [(TOPIC, None)]
    assert not (tmp_path / FILE).exists()
    assert Rig(tmp_path, None).announcer.idle


def test_another_prefix_moves_the_message(tmp_path: Path) -> None:
    before = Rig(tmp_path)
    before.run(lambda: before.until(lambda: len(before.published) == 1))
    after = Rig(tmp_path, HomeAssistantConfig(prefix="ha/site"))
    after.run(lambda: after.until(lambda: len(after.published) == 2))
    assert after.published[0] == (TOPIC, None)
    assert after.published[1][0] == f"ha/site/device/edgetrt/{DEVICE}/config"


def test_a_broker_that_does_not_allow_it_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    rig.transport = FakeTransport(refuse=(TOPIC,))
    rig.announcer = HomeAssistant(
        ON, ME, rig.transport, lambda: HEALTH, lambda: (), None, look_s=0.01
    )
    rig.run(lambda: asyncio.sleep(0.2))
    assert len([r for r in caplog.records if "refused" in r.getMessage()]) == 1


def test_a_prefix_that_is_no_topic_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("home_assistant: {prefix: 'a/#'}\n")
    with pytest.raises(ConfigError, match=r"home_assistant\.prefix"):
        document.load(path, DeviceConfig)
    path.write_text("home_assistant: {}\n")
    assert document.load(path, DeviceConfig).home_assistant == ON


@pytest.mark.broker
def test_the_broker_of_a_site_keeps_it_for_home_assistant(tmp_path: Path) -> None:
    with site(tmp_path) as broker:

        async def scenario() -> None:
            settings = Settings(will_delay_s=0)
            async with MqttTransport(
                broker.client(DEVICE), DEVICE, settings=settings, backoff=Backoff(0.02, 0.1)
            ) as transport:
                announcer = HomeAssistant(
                    ON, ME, transport, lambda: JETSON, lambda: ("street",), tmp_path, look_s=0.05
                )
                work = asyncio.create_task(announcer.run())
                for _ in range(1000):
                    if (tmp_path / FILE).exists():
                        break
                    await asyncio.sleep(0.02)
                work.cancel()
                await asyncio.wait([work])

        asyncio.run(asyncio.wait_for(scenario(), 60))
        # Home Assistant comes later, and finds it.
        with party(broker, HOME_ASSISTANT) as home:
            home.subscribe("homeassistant/#")
            home.say("homeassistant/status", b"last")
            assert home.heard("last") == [TOPIC]
            assert "street_objects" in json.loads(home.messages[0].payload)["components"]


def test_an_agent_with_the_option_announces_itself_and_one_without_does_not(tmp_path: Path) -> None:
    async def published(config: DeviceConfig, folder: Path) -> dict[str, bytes]:
        transport, stop = FakeTransport(), asyncio.Event()
        with Receiver(folder / "agent.sock") as receiver:
            agent = Agent(
                ME, config, transport, receiver, run_folder=folder, state_folder=folder / "state"
            )
            work = asyncio.create_task(agent.run(stop))
            topics: dict[str, bytes] = {}
            for _ in range(1000):
                topics = {on: body for on, body, _ in transport.published}
                if wire.health(DEVICE) in topics and (TOPIC in topics) == bool(
                    config.home_assistant
                ):
                    break
                await asyncio.sleep(0.01)
            stop.set()
            await asyncio.wait_for(work, 30)
        return topics

    for name in ("on", "off"):
        (tmp_path / name).mkdir()
    memory = OutboxConfig(store="memory")
    on = DeviceConfig(outbox=memory, home_assistant=ON)
    found = asyncio.run(published(on, tmp_path / "on"))
    assert "problem" in json.loads(found[TOPIC])["components"]
    assert TOPIC not in asyncio.run(published(DeviceConfig(outbox=memory), tmp_path / "off"))
