"""The contract: topics, versions, and what our values become."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgetrt import wire
from edgetrt.errors import MessageError, TransportError
from edgetrt.types import (
    Counters,
    Detections,
    Frame,
    Grant,
    PipelineHealth,
    RawOutput,
    Result,
    StageStats,
)

SAMPLES = Path(__file__).parent / "data" / "wire-v1"
FRAME = Frame(np.zeros((576, 768, 3), np.uint8), "bgr", 7, 123_456_789)


def result(output: Detections | RawOutput) -> Result:
    return Result("street", FRAME, output, ("person", "dog"), "0123abcd", 14_234_567, {}, 3)


def detections(*classes: int) -> Detections:
    count = len(classes)
    boxes = np.linspace(0.123, 99.987, 4 * count, dtype=np.float32).reshape(count, 4)
    scores = np.linspace(0.9, 0.3, count, dtype=np.float32)
    return Detections(boxes, scores, np.array(classes, np.int32))


def test_a_result_in_words_of_the_contract() -> None:
    message = wire.result_message(result(detections(1, 0)), unsent=2)
    assert json.loads(wire.encode(message)) == {
        "kind": "frame",
        "v": 1,
        "pipeline": "street",
        "frame": 7,
        "mono_ns": 123_456_789,
        "size": [768, 576],
        "engine": "0123abcd",
        "latency_ms": 14.235,
        "objects": [
            {"box": [0.1, 14.4, 28.7, 42.9], "score": 0.9, "label": "dog", "class": 1},
            {"box": [57.2, 71.5, 85.7, 100.0], "score": 0.3, "label": "person", "class": 0},
        ],
        "tensors": None,
        "dropped": 3,
        "unsent": 2,
    }


def test_a_class_without_a_label_is_named_by_its_number() -> None:
    message = wire.result_message(result(detections(5, -1)))
    assert [found.label for found in message.objects or ()] == ["5", "-1"]


def test_raw_tensors_are_sent_when_short_and_described_when_long() -> None:
    output = RawOutput(
        {
            "small": np.array([[0.1, np.nan], [1e-9, 3.0]], np.float32),
            "long": np.zeros(wire.MAX_RAW_VALUES + 1, np.float32),
        }
    )
    sent = wire.encode(wire.result_message(result(output)))
    message = wire.decode(wire.FrameResult, sent)
    assert message.objects is None
    assert message.tensors is not None
    assert message.tensors["small"].data == (0.1, None, 1e-9, 3.0)
    assert message.tensors["small"].shape == (2, 2)
    assert message.tensors["long"].data is None
    assert message.tensors["long"].shape == (wire.MAX_RAW_VALUES + 1,)


def test_stamping_keeps_the_frame_and_says_who_and_when() -> None:
    frame = wire.result_message(result(detections(0)))
    stamped = wire.stamp(frame, device="cam-1", epoch=9, seq=4, time_s=1.23456, boot="b")
    for name in wire.FrameResult.__struct_fields__:
        assert getattr(stamped, name) == getattr(frame, name)
    sent = json.loads(wire.encode(stamped))
    assert sent["kind"] == "result"
    assert (sent["device"], sent["epoch"], sent["seq"]) == ("cam-1", 9, 4)
    assert (sent["time"], sent["boot"]) == (1.235, "b")


def event(**fields: Any) -> wire.EventMessage:
    known = {"epoch": 3, "seq": 1, "time": 12.5, "boot": "b", "mono_ns": 4_000_000_000}
    return wire.EventMessage(device="cam-1", event="pipeline", **{**known, **fields})


def test_what_waited_is_marked_without_being_read() -> None:
    frame = wire.result_message(result(detections(0)))
    stamped = wire.stamp(frame, device="cam-1", epoch=9, seq=4, time_s=1.0, boot="b")
    agent = wire.AgentReport(rss_bytes=None, uptime_s=1.0)
    health = wire.HealthMessage(device="cam-1", epoch=3, seq=2, time=1.0, version="1", agent=agent)
    for message in (stamped, health, event()):
        marked = wire.decode(type(message), wire.as_historical(wire.encode(message)))
        assert marked == msgspec.structs.replace(message, historical=True)
        assert wire.as_historical(wire.encode(marked)) == wire.encode(marked)
    status = wire.encode(
        wire.StatusMessage(device="cam-1", online=True, epoch=3, time=1.0, version="1")
    )
    assert wire.as_historical(status) == status


@pytest.mark.parametrize(
    ("boot", "synced", "expected"),
    [("b", True, 1_795_437_990.0), ("b", False, 12.5), ("b", None, 12.5), ("other", True, 12.5)],
)
def test_time_is_mended_by_a_clock_that_was_set_later_in_the_same_boot(
    boot: str, synced: bool | None, expected: float
) -> None:
    """The sample was made at 4 s of its boot; at 14 s the clock says 1795438000."""
    reported = wire.ReportedMessage(
        device="cam-1",
        epoch=3,
        time=1_795_438_000.0,
        version="1",
        clock=wire.ClockReport(boot=boot, mono_ns=14_000_000_000, synced=synced),
    )
    assert wire.mended_time_s(event(), reported) == expected


def test_health_of_a_pipeline_survives_the_wire() -> None:
    stats = StageStats(1.23456, 2.0, 1.5)
    counters = Counters(read=10, done=7, dropped=2, refused=1)
    health = PipelineHealth(
        "street",
        "running",
        "onnxruntime",
        "abc",
        9.98765,
        stats,
        {"infer": stats},
        counters,
        "",
        2.5,
    )
    report = wire.decode_link(wire.encode(wire.pipeline_report(health)))
    assert isinstance(report, wire.PipelineReport)
    assert report.counters == counters
    assert report.fps == 9.99
    assert report.latency == report.stages["infer"] == StageStats(1.235, 2.0, 1.5)


def test_a_grant_survives_the_wire() -> None:
    message = wire.decode_link(wire.encode(wire.grant_message("street", Grant(12.5))))
    assert message == wire.GrantMessage(pipeline="street", rate_hz=12.5)


def test_topics_are_made_and_taken_apart() -> None:
    made = {
        "status": wire.status("cam-1"),
        "reported": wire.reported("cam-1"),
        "event": wire.event("cam-1"),
        "health": wire.health("cam-1"),
        "result": wire.result("cam-1", "street"),
        "reply": wire.reply("cam-1", "a1"),
        "desired": wire.desired("cam-1"),
        "cmd": wire.cmd("cam-1"),
        "fetch": wire.fetch("cam-1"),
        "chunk": wire.chunk("cam-1"),
        "announce": wire.ANNOUNCE,
    }
    assert set(made) == {row.name for row in wire.TOPICS}
    for name, topic in made.items():
        address = wire.parse(topic)
        assert (address.topic.name, address.device) == (name, "" if name == "announce" else "cam-1")
        assert address.pipeline == ("street" if name == "result" else "")
        assert address.id == ("a1" if name == "reply" else "")
    down = {made[row.name] for row in wire.TOPICS if row.direction == "down"}
    assert set(wire.everything_to("cam-1", chunks=True)) == down
    assert set(wire.everything_to("cam-1")) == down - {made["chunk"]}
    assert wire.everything_from("cam-1") == "edgetrt/v1/u/cam-1/#"
    assert wire.everything_from() == "edgetrt/v1/u/+/#"


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "$SYS", "Cam", "a b", "é", "a\n", "x" * 64])
def test_a_name_that_is_no_topic_level_is_refused(name: str) -> None:
    made_of_a_device = (
        *(wire.status, wire.reported, wire.event, wire.health, wire.everything_from),
        *(wire.desired, wire.cmd, wire.fetch, wire.chunk, wire.everything_to),
    )
    for make in made_of_a_device:
        with pytest.raises(MessageError, match="not usable in a topic"):
            make(name)
    with pytest.raises(MessageError, match="pipeline"):
        wire.result("cam-1", name)
    with pytest.raises(MessageError, match="command id"):
        wire.reply("cam-1", name)
    with pytest.raises(MessageError, match="not in the contract"):
        wire.parse(f"edgetrt/v1/u/{name}/status")


def test_the_table_says_qos_1_and_retains_only_what_is_a_state() -> None:
    assert {row.qos for row in wire.TOPICS} == {1}
    assert [row.name for row in wire.TOPICS if row.retained] == ["status", "reported", "desired"]
    # What is retained stays; what is not must not wait for a subscriber for ever.
    assert {row.expiry_s is None for row in wire.TOPICS if row.retained} == {True}
    assert {row.expiry_s is None for row in wire.TOPICS if not row.retained} == {False}
    for row in wire.TOPICS:
        assert row.pattern.startswith(f"edgetrt/v1/{row.direction[0]}/")


def test_another_version_is_refused_by_name_whatever_else_it_says() -> None:
    with pytest.raises(MessageError, match="version 2, expected 1") as caught:
        wire.decode(
            wire.StatusMessage,
            b'{"v":2,"kind":["not", "ours"]}'.replace(b'["not", "ours"]', b'"x"'),
        )
    assert "update" in caught.value.hint
    with pytest.raises(MessageError, match="version None"):
        wire.decode(wire.StatusMessage, b'{"kind":"status"}')


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"v":1}',
        b'{"v":1,"kind":"status"}',
        b'{"v":1,"kind":"nothing"}',
        b'{"v":1,"kind":"status","device":5}',
        b'{"v":"1","kind":"status"}',
        b'{"v":1,"kind":"\xff"}',
        b'{"v":1,"kind":"status","x":' + b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    for read in (
        lambda: wire.decode(wire.StatusMessage, payload),
        lambda: wire.decode_link(payload),
    ):
        with pytest.raises(MessageError) as caught:
            read()
        assert isinstance(caught.value, TransportError)


def test_a_message_of_another_kind_is_refused() -> None:
    grant = wire.encode(wire.GrantMessage(pipeline="street"))
    with pytest.raises(MessageError, match="kind"):
        wire.decode(wire.StatusMessage, grant)


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*.json")), ids=lambda file: file.stem)
def test_messages_of_the_first_release_are_read_for_ever(file: Path) -> None:
    """Each sample carries a field that this version does not know."""
    kind = next(row.kind for row in wire.TOPICS if row.name == file.stem.split("-")[0])
    payload = file.read_bytes()
    message = wire.decode(kind, payload)
    known = json.loads(wire.encode(message))
    original = json.loads(payload)
    assert original.pop("from_the_future") is not None
    for key, value in original.items():
        assert covers(known[key], value), key


def covers(known: Any, told: Any) -> bool:
    """Everything that was told is known; fields of later releases may be there as well."""
    if isinstance(told, dict):
        return all(covers(known[key], value) for key, value in told.items())
    if isinstance(told, list):
        return len(known) == len(told) and all(map(covers, known, told))
    return bool(known == told)


def test_there_is_a_sample_of_every_topic() -> None:
    assert {file.stem for file in SAMPLES.glob("*.json")} == {row.name for row in wire.TOPICS}


def test_the_schema_names_every_topic_and_its_required_fields() -> None:
    schema = wire.schema()
    assert schema["version"] == wire.VERSION
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["topics"]) == {row.name for row in wire.TOPICS}
    required = schema["$defs"]["ResultMessage"]["required"]
    assert {"device", "epoch", "seq", "time", "boot", "pipeline", "frame"} <= set(required)


def test_the_control_plane_reads_messages_without_numpy() -> None:
    code = (
        "import sys; from edgetrt import wire, link, mqtt; import edgetrt.agent.process;"
        "sys.exit('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 0


def test_the_documentation_names_every_topic_and_field() -> None:
    text = (Path(__file__).parents[1] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    for row in wire.TOPICS:
        line = row.pattern.format(device="<device>", pipeline="<pipeline>", id="<id>")
        assert re.search(rf"^\| `{re.escape(line)}` \|", text, re.MULTILINE), line
        for field in row.kind.__struct_fields__:
            name = "class" if field == "class_" else field
            assert f'"{name}"' in text or f"`{name}`" in text, f"{row.name}: {name}"
