"""What every sink promises: the fake and each one that edgetrt has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgetrt.link import Receiver, Sender
from edgetrt.ports import Sink
from edgetrt.sinks.image import ImageSink
from edgetrt.sinks.jsonl import JsonlSink
from edgetrt.sinks.link import LinkSink
from edgetrt.sinks.video import VideoSink
from edgetrt.types import RawOutput, Result
from tests.fakes import FakeSink
from tests.sinks.results import make_result

KINDS = ["fake", "jsonl", "video", "video-blocking", "image", "link"]


def encode(result: Result) -> bytes:
    return b'{"frame":%d}' % result.frame.seq


@pytest.fixture(params=KINDS)
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sink]:
    if request.param == "link":
        with Receiver(tmp_path / "s"), Sender(tmp_path / "s") as sender:
            yield LinkSink(sender)
        return
    makers: dict[str, Callable[[], Sink]] = {
        "fake": FakeSink,
        "jsonl": lambda: JsonlSink(tmp_path / "a.jsonl", encode),
        "video": lambda: VideoSink(tmp_path / "a.mp4"),
        "video-blocking": lambda: VideoSink(tmp_path / "a.mp4", block=True),
        "image": lambda: ImageSink(tmp_path / "a.png", every=1),
    }
    made = makers[request.param]()
    yield made
    made.close()


def test_it_takes_results(sink: Sink) -> None:
    assert [sink.put(make_result(seq)) for seq in range(3)] == [True] * 3


def test_any_output_and_any_size_will_do(sink: Sink) -> None:
    odd = [
        make_result(0),
        make_result(1, boxes=()),
        make_result(2, size=(31, 17)),
        make_result(3, output=RawOutput({})),
        make_result(4, labels=()),
    ]
    assert all(sink.put(result) is True for result in odd)


def test_it_may_be_closed_twice_and_without_a_result(sink: Sink) -> None:
    sink.close()
    sink.close()


def test_put_never_raises_even_when_closed(sink: Sink) -> None:
    sink.put(make_result(0))
    sink.close()
    assert sink.put(make_result(1)) in (True, False)
