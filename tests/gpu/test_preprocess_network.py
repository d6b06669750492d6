"""The pass as a network does what the kernel does; ONNX Runtime stands for the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgetrt.config import PreprocessConfig
from edgetrt.errors import InferenceError, ModelError
from edgetrt.gpu.preprocess_network import preprocess_network
from edgetrt.types import PixelFormat, Shape, TensorSpec
from tests.gpu import reference

STEP = 1 / 255


def run(pixel_format: PixelFormat, shape: Shape, dtype: str, config: PreprocessConfig) -> Any:
    frame = reference.random_frame((98, 54), pixel_format, 1)
    model = preprocess_network((98, 54), pixel_format, TensorSpec("x", shape, dtype), config)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (out,) = session.run(["x"], {"frame": frame.data})
    assert out.dtype == dtype
    return frame, out[0]


@pytest.mark.parametrize("pixel_format", reference.FORMATS)
@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
def test_every_format_and_fit(pixel_format: PixelFormat, resize: Any) -> None:
    config = PreprocessConfig(resize=resize)
    frame, got = run(pixel_format, (1, 3, 48, 64), "float32", config)
    expected = reference.preprocess(frame, (64, 48), config)
    difference = np.abs(got - expected)
    assert difference.max() <= STEP + 1e-4
    assert (difference > 1e-4).mean() < 0.002


def test_interleaved_half_precision_blue_first() -> None:
    config = PreprocessConfig(color="bgr", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), pad=3)
    frame, got = run("rgb", (1, 40, 33, 3), "float16", config)
    expected = reference.preprocess(frame, (33, 40), config, planar=False)
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_sizes_that_the_format_cannot_have_are_refused() -> None:
    spec = TensorSpec("x", (1, 3, 8, 8), "float32")
    with pytest.raises(InferenceError, match="even"):
        preprocess_network((9, 8), "nv12", spec, PreprocessConfig())


def test_types_that_it_cannot_round_are_refused() -> None:
    with pytest.raises(ModelError, match="int8"):
        spec = TensorSpec("x", (1, 3, 8, 8), "int8")
        preprocess_network((8, 8), "rgb", spec, PreprocessConfig())
