"""From a CSI camera's buffers to tensors and back to the camera, through the loop that runs pipelines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetrt.backends.device_session import DeviceSession
from edgetrt.clock import SystemClock
from edgetrt.config import PreprocessConfig
from edgetrt.errors import SourceError
from edgetrt.geometry import Fit
from edgetrt.gpu.layout import target
from edgetrt.gpu.preprocess import GpuPreprocessor
from edgetrt.gpu.surfaces import Sharing
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.network import Lane, Network
from edgetrt.runtime.newest import Newest
from edgetrt.runtime.pipeline import Pipeline
from edgetrt.sinks.video import VideoSink
from edgetrt.sources.gstreamer import BUFFERS, CsiSource
from edgetrt.sources.gstreamer_library import gst
from edgetrt.sources.surfaces import NvmmSurface
from edgetrt.types import Frame, Grant, RawOutput, Result, TensorSpec
from tests.fakes import FakeDevice
from tests.gpu import reference
from tests.gpu.conftest import load
from tests.gpu.engines import Doubling
from tests.gpu.host_compiler import available
from tests.standins import csi, nvmm
from tests.standins.nvmm import Buffer, Nvmm

try:
    gst()
except SourceError as error:
    pytest.skip(error.message, allow_module_level=True)

INPUT = TensorSpec("x", (1, 3, 1, 2), "float32")
STRETCH = PreprocessConfig(resize="stretch")


class Raw:
    """Keeps the network's own tensors."""

    def decode(
        self, tensors: Mapping[str, NDArray[Any]], placed: Fit, size: tuple[int, int]
    ) -> RawOutput:
        return RawOutput({name: tensor.copy() for name, tensor in tensors.items()})

    def tuned(self, **limits: Any) -> Raw:
        return self


class Answers:
    """Notes what was said about which picture, and keeps no picture."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bool, NDArray[Any]]] = []

    def put(self, result: Result) -> bool:
        assert isinstance(result.output, RawOutput)
        shared = isinstance(result.frame.pixels, NvmmSurface)
        self.said.append((result.frame.seq, shared, result.output.tensors["y"]))
        return True

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def camera() -> Nvmm:
    if not available():
        pytest.skip("no host compiler")
    made = nvmm.loaded()
    made.reset()
    return made


def picture(number: int) -> NDArray[np.uint8]:
    """Grey, and a little brighter with each."""
    pixels = np.full((57, 66), 128, np.uint8)
    pixels[:38] = 16 + number % 200
    return pixels


def paint(buffer: Buffer, number: int) -> None:
    buffer.fill(picture(number))


def test_every_picture_is_answered_where_it_lies_and_given_back(
    camera: Nvmm, kernel_cache: Path, tmp_path: Path
) -> None:
    gpu, answers, jetson = FakeDevice(), Answers(), csi.Jetson()
    jetson.paint, jetson.make = paint, lambda _: camera.make(*csi.SIZE)
    module, sharing = load(gpu, "preprocess", kernel_cache), Sharing(gpu, camera.driver)

    def lane() -> Lane:
        engine = Doubling(gpu)
        engine.inputs = (INPUT,)
        session = DeviceSession(gpu, engine)
        into = target(INPUT, session.pointer("x"), STRETCH)
        preprocessor = GpuPreprocessor(gpu, module, into, STRETCH, sharing=sharing)
        session.lead("x", preprocessor)
        return Lane(session, preprocessor)

    clock, video = SystemClock(), VideoSink(tmp_path / "seen.avi")
    with csi.elements(jetson):
        source = Newest(CsiSource())
        network = Network("f", "fake", (), (lane(), lane()), Raw())
        network.warm()
        meter = Meter("street", clock)
        pipeline = Pipeline(
            name="street",
            source=source,
            network=network,
            sinks=[answers, video],
            meter=meter,
            clock=clock,
            grant=Grant(),
        )
        pipeline.run(threading.Event(), frames=6 * BUFFERS)
        source.close()
    video.close()
    assert len(answers.said) == 6 * BUFFERS
    for seq, shared, got in answers.said:
        assert shared
        wanted = reference.to_rgb(Frame(picture(seq), "nv12", seq, 0))[0, 0] / 255 * 2
        np.testing.assert_allclose(got, np.repeat(wanted, 2)[None], atol=2 / 255 + 1e-5)
    assert sharing.refusal == ""
    assert gpu.launches > 5 * BUFFERS
    assert camera.counts() == {}
    gpu.push()
    module.close()
    gpu.pop()
    assert (gpu.open, gpu.allocated) == (0, 0)
    for buffer in jetson.buffers:
        buffer.free()
