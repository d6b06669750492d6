"""Whatever we say is understood; whatever else arrives is refused with our error."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgetrt import wire
from edgetrt.errors import MessageError
from edgetrt.types import Counters, StageStats

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**63 - 1)
words = st.text(max_size=20)
lines = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
names = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)

boxes = st.builds(
    wire.Box,
    box=st.tuples(numbers, numbers, numbers, numbers),
    score=numbers,
    label=words,
    class_=st.integers(-(2**31), 2**31 - 1),
)
tensors = st.builds(
    wire.Tensor,
    shape=st.lists(counts, max_size=4).map(tuple),
    dtype=words,
    data=st.none() | st.lists(st.none() | numbers, max_size=5).map(tuple),
)
frame_fields = {
    "pipeline": names,
    "frame": counts,
    "mono_ns": counts,
    "size": st.tuples(counts, counts),
    "engine": words,
    "latency_ms": numbers,
    "objects": st.none() | st.lists(boxes, max_size=4).map(tuple),
    "tensors": st.none() | st.dictionaries(words, tensors, max_size=2),
    "dropped": counts,
    "unsent": counts,
}
stamp_fields = {"device": names, "epoch": counts, "seq": counts, "time": numbers, "boot": words}
stats = st.builds(StageStats, numbers, numbers, numbers)
reports = st.builds(
    wire.PipelineReport,
    pipeline=names,
    state=words,
    backend=words,
    engine=words,
    fps=numbers,
    latency=st.none() | stats,
    stages=st.dictionaries(words, stats, max_size=3),
    counters=st.builds(Counters, counts, counts, counts, counts),
    error=words,
    objects=st.none() | numbers,
    age_s=numbers,
)
agents = st.builds(
    wire.AgentReport, rss_bytes=st.none() | counts, uptime_s=numbers, received=counts, unsent=counts
)
grants = st.builds(wire.GrantMessage, pipeline=names, rate_hz=st.none() | numbers)
frames = st.builds(wire.FrameResult, **frame_fields)
published = st.one_of(
    st.builds(wire.ResultMessage, **frame_fields, **stamp_fields),
    st.builds(
        wire.HealthMessage,
        device=names,
        epoch=counts,
        seq=counts,
        time=numbers,
        version=words,
        agent=agents,
        pipelines=st.lists(reports, max_size=2).map(tuple),
        state=words,
        reasons=st.lists(
            st.builds(wire.Reason, state=words, code=words, about=words, text=words), max_size=2
        ).map(tuple),
        historical=st.booleans(),
    ),
    st.builds(
        wire.EventMessage,
        device=names,
        epoch=counts,
        seq=counts,
        time=numbers,
        boot=words,
        mono_ns=counts,
        event=words,
        about=words,
        text=words,
        historical=st.booleans(),
    ),
    st.builds(
        wire.ReportedMessage,
        device=names,
        epoch=counts,
        time=numbers,
        version=words,
        python=words,
        clock=st.builds(wire.ClockReport, boot=words, mono_ns=counts, synced=st.booleans()),
    ),
    st.builds(
        wire.StatusMessage,
        device=names,
        online=st.booleans(),
        epoch=counts,
        time=numbers,
        version=words,
        reason=words,
    ),
)
plain = st.dictionaries(words, st.none() | st.booleans() | counts | words, max_size=3)
generations = st.integers(1, 2**53)
asked = st.one_of(
    st.builds(
        wire.ReplyMessage,
        device=names,
        epoch=counts,
        time=numbers,
        id=names,
        command=words,
        ok=st.booleans(),
        code=words,
        error=words,
        result=plain,
        elapsed_s=numbers,
    ),
    st.builds(
        wire.DesiredMessage,
        generation=generations,
        settings=st.dictionaries(names, plain, max_size=2),
    ),
    st.builds(
        wire.CommandMessage,
        id=names,
        command=lines,
        arguments=plain,
        expires=st.none() | numbers,
        by=words,
    ),
    st.builds(wire.AnnounceMessage, about=lines),
    st.builds(
        wire.FetchMessage,
        path=st.text(min_size=1, max_size=20),
        offset=st.integers(0, 2**53),
        length=st.integers(1, wire.MOST_CHUNK_BYTES),
    ),
    st.builds(
        wire.ChunkMessage,
        path=words,
        offset=counts,
        status=counts,
        size=st.integers(0, 2**53),
        data=st.binary(max_size=40),
    ),
)
links = st.one_of(
    frames,
    reports,
    grants,
    st.builds(wire.SettingsMessage, pipeline=names, generation=generations, settings=plain),
    st.builds(
        wire.AskMessage, pipeline=names, what=words, reply=words, limit=counts, seconds=numbers
    ),
    st.builds(wire.AnswerMessage, pipeline=names, what=words, error=words, result=plain),
)


@given(published | asked)
def test_what_is_published_is_read_back(message: wire.Struct) -> None:
    assert wire.decode(type(message), wire.encode(message)) == message


@given(links)
def test_what_goes_over_the_link_is_read_back(message: wire.LinkMessage) -> None:
    assert wire.decode_link(wire.encode(message)) == message


@given(published | asked, st.dictionaries(words.map(lambda word: f"x-{word}"), words, max_size=3))
def test_unknown_fields_are_ignored(message: wire.Struct, unknown: dict[str, str]) -> None:
    body = {**msgspec.json.decode(wire.encode(message)), **unknown}
    assert wire.decode(type(message), msgspec.json.encode(body)) == message


@given(published | asked, st.integers().filter(lambda version: version != 1))
def test_other_versions_are_refused(message: wire.Struct, version: int) -> None:
    body = msgspec.json.decode(wire.encode(message))
    body["v"] = version
    with pytest.raises(MessageError):
        wire.decode(type(message), msgspec.json.encode(body) if abs(version) < 2**63 else b"{}")


def read_every_way(payload: bytes) -> None:
    for kind in [row.kind for row in wire.TOPICS]:
        try:
            wire.decode(kind, payload)
        except MessageError as error:
            assert error.message
    try:
        wire.decode_link(payload)
    except MessageError as error:
        assert error.message


@given(st.binary(max_size=200))
@example(b"{" * 2000)
@example(b'{"v":1e999}')
@example(b'{"v":1,"kind":"grant","pipeline":"\\ud800"}')
def test_any_bytes_raise_our_error_only(payload: bytes) -> None:
    read_every_way(payload)


@given(published | asked | links, st.data())
def test_damaged_messages_raise_our_error_only(message: wire.Struct, data: st.DataObject) -> None:
    payload = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    read_every_way(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


@given(names, names)
def test_every_topic_is_taken_apart_again(device: str, pipeline: str) -> None:
    address = wire.parse(wire.result(device, pipeline))
    assert (address.device, address.pipeline) == (device, pipeline)


@given(st.text(max_size=60) | st.text(max_size=20).map(lambda text: f"edgetrt/v1/u/{text}/status"))
def test_any_topic_is_ours_or_refused(topic: str) -> None:
    try:
        address = wire.parse(topic)
    except MessageError:
        return
    assert topic == f"edgetrt/v1/u/{address.device}/{address.topic.name}"
