"""Results as datagrams."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgetrt import wire
from edgetrt.link import Receiver, Sender
from edgetrt.sinks.link import LinkSink
from edgetrt.types import Detections, Frame, Result


def result(seq: int) -> Result:
    boxes = np.array([[1.04, 2.06, 30.0, 40.0]], np.float32)
    found = Detections(boxes, np.array([0.87654], np.float32), np.array([0], np.int32))
    frame = Frame(np.zeros((6, 8, 3), np.uint8), "rgb", seq, 5_000)
    return Result("street", frame, found, ("person",), "abc", 12_345_678)


def test_a_result_arrives_and_one_that_does_not_is_told_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with Sender(path) as sender:
        sink = LinkSink(sender)
        assert not sink.put(result(0))
        assert not sink.put(result(1))
        with Receiver(path) as receiver:
            assert sink.put(result(2))
            message = wire.decode_link(receiver.receive() or b"")
        sink.close()
        assert isinstance(message, wire.FrameResult)
        assert (message.frame, message.unsent, message.size) == (2, 2, (8, 6))
        assert message.objects == (
            wire.Box(box=(1.0, 2.1, 30.0, 40.0), score=0.8765, label="person", class_=0),
        )
