"""Real plans by TensorRT-RTX, which builds on a machine without a GPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgetrt.backends.tensorrt_api import load
from edgetrt.engine.build import BuildResult, build
from edgetrt.engine.cache import Cache
from edgetrt.engine.fingerprint import Toolchain, digest_network, fingerprint
from edgetrt.engine.plan import check_header, read_header
from edgetrt.engine.spec import BuildSpec, ShapeRange
from edgetrt.errors import EngineBuildError, ModelError, PlacementError, UnsupportedOperatorError
from edgetrt.types import DeviceIdentity
from tests.backends.tensorrt_networks import conv_net

if TYPE_CHECKING:
    from edgetrt.engine.events import Progress

pytest.importorskip("tensorrt_rtx_bindings")

PERSON = Path(__file__).parents[2] / "engines" / "person" / "person.onnx"
LIGHT = sorted(Path(onnx.__file__).parent.glob("backend/test/data/light/light_*.onnx"))


def make(spec: BuildSpec, tmp_path: Path) -> BuildResult:
    """Build, and check what every plan must satisfy."""
    library = load()
    assert library.flavour == "tensorrt_rtx"
    result = build(spec, tmp_path / "engine.plan")
    check_header(result.header, "tensorrt_rtx", library.numbers)
    assert result.built.toolchain == f"tensorrt_rtx {library.version}"
    assert result.built.size == result.plan.stat().st_size
    assert result.built.layers
    return result


def test_person_fp32_with_progress(tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = build(BuildSpec(PERSON), tmp_path / "p.plan", seen.append)
    fractions = [event.fraction for event in seen if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert len(fractions) > 20
    assert fractions[-1] == 1.0
    assert str(result.header).startswith("TensorRT-RTX 1.")
    kinds = [layer.kind for layer in result.built.layers]
    assert kinds.count("CONVOLUTION") >= 30
    assert {layer.device for layer in result.built.layers} == {"GPU"}


def test_person_fp16_is_smaller_than_fp32(tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    onnx.save(cast_to_half(onnx.load(str(PERSON))), str(half))
    result = make(BuildSpec(half, precision="fp16", typed=True), tmp_path)
    whole = build(BuildSpec(PERSON), tmp_path / "whole.plan")
    assert result.built.size < 0.8 * whole.built.size


def cast_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every float weight and tensor to half, with casts at the edges."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def test_person_int8_with_scales_in_the_network(tmp_path: Path) -> None:
    quantized = tmp_path / "int8.onnx"
    quantize(PERSON, quantized)
    result = make(BuildSpec(quantized, precision="int8", typed=True), tmp_path)
    kinds = {layer.kind for layer in result.built.layers}
    assert {"QUANTIZE", "DEQUANTIZE"} <= kinds


def quantize(model: Path, out: Path) -> None:
    """Q/DQ around convolutions, symmetric, scales from one random frame."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Frames(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            frame = np.random.default_rng(0).random((1, 3, 384, 512), dtype=np.float32)
            self._frames = iter([{"images": frame}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._frames, None)

    quantize_static(
        str(model),
        str(out),
        Frames(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        # TensorRT dequantizes 8 bits only: a 32-bit bias has to stay in float.
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )


@pytest.mark.parametrize("model", LIGHT, ids=lambda path: path.stem)
@pytest.mark.slow
def test_light_graphs_of_the_onnx_wheel(model: Path, tmp_path: Path) -> None:
    make(BuildSpec(model), tmp_path)


def test_there_are_nine_light_graphs() -> None:
    assert len(LIGHT) == 9


def test_dynamic_batch_with_a_profile(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "m.onnx", batch="n")
    with pytest.raises(ModelError, match="without a range"):
        build(BuildSpec(model), tmp_path / "none.plan")
    shapes = ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))
    make(BuildSpec(model, profiles=({"x": shapes},)), tmp_path)
    assert not (tmp_path / "none.plan").exists()


def test_every_refused_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        build(BuildSpec(conv_net(tmp_path / "m.onnx", custom=2)), tmp_path / "p.plan")
    assert "Foo 'foo0'" in caught.value.message
    assert "Foo 'foo1'" in caught.value.message


def test_known_operator_that_tensorrt_does_not_have(tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    ends[1] = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = helper.make_graph([node], "g", [ends[0]], [ends[1]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "d")
    with pytest.raises(UnsupportedOperatorError, match="Det 'det': unsupported node"):
        build(BuildSpec(tmp_path / "d"), tmp_path / "p.plan")


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08 no network")
    with pytest.raises(ModelError, match="TensorRT cannot read it"):
        build(BuildSpec(tmp_path / "m.onnx"), tmp_path / "p.plan")


def test_there_is_no_dla_here(tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), precision="fp16", typed=True, dla=0)
    with pytest.raises(PlacementError, match="has none"):
        build(spec, tmp_path / "p.plan")


def test_cancelled_while_it_builds(tmp_path: Path) -> None:
    cancel = threading.Event()
    big = next(path for path in LIGHT if "densenet" in path.name)
    with pytest.raises(EngineBuildError, match="cancelled"):
        build(BuildSpec(big), tmp_path / "p.plan", lambda _: cancel.set(), cancel)
    assert not (tmp_path / "p.plan").exists()


def test_plan_goes_into_the_cache_with_its_sidecar(tmp_path: Path) -> None:
    library, spec = load(), BuildSpec(PERSON)
    toolchain = Toolchain(library.flavour, library.version)
    name = fingerprint(digest_network(PERSON), spec, toolchain, DeviceIdentity("here"))
    result = make(spec, tmp_path)
    cache = Cache(tmp_path / "cache")
    cache.put(
        name.digest, {"engine.plan": result.plan}, "engine.plan", name.fields, {"name": "person"}
    )
    engine = cache.open(name.digest)
    assert engine.data == result.plan.read_bytes()
    assert read_header(engine.data) == result.header
    assert engine.manifest.fields["toolchain.flavour"] == "tensorrt_rtx"
    assert engine.manifest.fields["network"] == digest_network(PERSON)
