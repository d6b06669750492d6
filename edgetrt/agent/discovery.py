"""What Home Assistant is told that a device has, in the words of its MQTT discovery; no I/O.

The entities read the topics that are there anyway, by templates; nothing is sent twice. Form and names are
those of https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload; a part is taken away as
that page says, by its platform alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt import wire

if TYPE_CHECKING:
    from edgetrt.agent.identity import Identity

_FRESH = "{% if not value_json.historical %}"
_PIPELINE = (
    "{{% set p = value_json.pipelines | selectattr('pipeline', 'eq', '{0}') | list | first %}}"
)


class Known(msgspec.Struct, frozen=True):
    """What a device has that Home Assistant can show; each sorted."""

    pipelines: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    power_mode: bool = False

    def __or__(self, other: Known) -> Known:
        return Known(
            tuple(sorted({*self.pipelines, *other.pipelines})),
            tuple(sorted({*self.zones, *other.zones})),
            self.power_mode or other.power_mode,
        )


def topic(prefix: str, device: str) -> str:
    """Where a device is announced; the level `edgetrt` keeps it apart from others of that name."""
    return f"{prefix}/device/edgetrt/{device}/config"


def known_of(health: wire.HealthMessage | None, configured: Iterable[str]) -> Known:
    """What there is to show: pipelines that are configured or have reported, and what the board tells."""
    if health is None:
        return Known(tuple(sorted(configured)))
    zones = (zone for zone in health.board.temperatures_c if re.fullmatch(r"[\w .-]+", zone))
    reported = {report.pipeline for report in health.pipelines}
    return Known(
        tuple(sorted({*reported, *configured})),
        tuple(sorted(zones)),
        health.board.power_mode is not None,
    )


def components(device: str, known: Known) -> dict[str, dict[str, Any]]:
    """The entities, by a key that stays the same as long as the thing does."""
    found = {"connectivity": _connectivity(device), "problem": _problem(device)}
    for pipeline in known.pipelines:
        found |= _of_pipeline(device, pipeline)
    for zone in known.zones:
        value = (
            f"{_FRESH}{{{{ value_json.board.temperatures_c[{json.dumps(zone)}] }}}}{{% endif %}}"
        )
        found[f"temperature_{_slug(zone)}"] = _sensor(
            device, f"temperature {zone}", wire.health(device), value,
            device_class="temperature", unit_of_measurement="°C", state_class="measurement",
            entity_category="diagnostic",
        )  # fmt: skip
    if known.power_mode:
        # A text that is empty would be shown as such, so an old message repeats what is there.
        value = "{{ this.state if value_json.historical else value_json.board.power_mode }}"
        found["power_mode"] = _sensor(
            device, "power mode", wire.health(device), value, entity_category="diagnostic"
        )
    return {key: {**part, "unique_id": f"edgetrt_{device}_{key}"} for key, part in found.items()}


def discovery(identity: Identity, known: Known, gone: Mapping[str, str]) -> bytes:
    """The message for one device; `gone` are platforms of parts that were there, by key."""
    device = identity.device
    parts: dict[str, dict[str, Any]] = {key: {"platform": gone[key]} for key in gone}
    message = {
        "device": {
            "identifiers": [f"edgetrt_{device}"],
            "name": device,
            "manufacturer": "edgetrt",
            "sw_version": identity.version,
        },
        "origin": {"name": "edgetrt", "sw_version": identity.version},
        "components": {**parts, **components(device, known)},
        "qos": wire.QOS,
    }
    return msgspec.json.encode(message)


def _of_pipeline(device: str, pipeline: str) -> dict[str, dict[str, Any]]:
    """Count, latency and rate; the count comes with each result, the others with each health."""
    health, chosen = wire.health(device), _PIPELINE.format(pipeline)
    count = (
        "{% if not value_json.historical and value_json.objects is not none %}"
        "{{ value_json.objects | count }}{% endif %}"
    )

    def figure(name: str) -> str:
        return f"{_FRESH}{chosen}{{{{ p.{name} if p is defined and p.latency else none }}}}{{% endif %}}"

    milliseconds = {
        "device_class": "duration",
        "unit_of_measurement": "ms",
        "state_class": "measurement",
        "suggested_display_precision": 1,
        "entity_category": "diagnostic",
    }
    rate = {"unit_of_measurement": "fps", "state_class": "measurement"}
    return {
        f"{pipeline}_objects": _sensor(
            device,
            f"{pipeline} objects",
            wire.result(device, pipeline),
            count,
            state_class="measurement",
            icon="mdi:account-multiple",
        ),
        f"{pipeline}_latency_p50": _sensor(
            device, f"{pipeline} latency p50", health, figure("latency.p50_ms"), **milliseconds
        ),
        f"{pipeline}_latency_p99": _sensor(
            device, f"{pipeline} latency p99", health, figure("latency.p99_ms"), **milliseconds
        ),
        f"{pipeline}_fps": _sensor(
            device, f"{pipeline} rate", health, figure("fps"), icon="mdi:speedometer", **rate
        ),
    }


def _sensor(device: str, name: str, state_topic: str, value: str, **more: Any) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "name": name,
        "state_topic": state_topic,
        "value_template": value,
        "availability": [_availability(device)],
        **more,
    }


def _availability(device: str) -> dict[str, str]:
    return {
        "topic": wire.status(device),
        "value_template": "{{ 'online' if value_json.online else 'offline' }}",
    }


def _connectivity(device: str) -> dict[str, Any]:
    return {
        "platform": "binary_sensor",
        "name": "connectivity",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": wire.status(device),
        "value_template": "{{ 'ON' if value_json.online else 'OFF' }}",
    }


def _problem(device: str) -> dict[str, Any]:
    health = wire.health(device)
    verdict = "{{ 'OFF' if value_json.state == 'ok' else 'ON' }}"
    reasons = "{{ {'state': value_json.state, 'reasons': value_json.reasons} | tojson }}"
    return {
        "platform": "binary_sensor",
        "name": "problem",
        "device_class": "problem",
        "entity_category": "diagnostic",
        "state_topic": health,
        "value_template": f"{_FRESH}{verdict}{{% endif %}}",
        "json_attributes_topic": health,
        "json_attributes_template": reasons,
        "availability": [_availability(device)],
    }


def _slug(zone: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", zone.lower()).strip("-")
