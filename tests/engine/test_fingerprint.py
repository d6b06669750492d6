from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgetrt.engine.fingerprint import Fingerprint, Toolchain, digest_network, fingerprint
from edgetrt.engine.spec import BuildSpec, ShapeRange, decode, encode
from edgetrt.errors import EngineBuildError, ModelError
from edgetrt.types import DeviceIdentity

SPEC = BuildSpec(Path("m.onnx"), precision="int8", dla=0, gpu_layers=("a", "b"))
TOOLS = Toolchain("tensorrt", "10.3.0.30", "12.6")
ORIN = DeviceIdentity("Orin NX", "p3767-0000", "tegra234", "8.7", "36.4.3", 16 << 30)


def name(**changes: Any) -> Fingerprint:
    given: dict[str, Any] = {"network": "00", "spec": SPEC, "toolchain": TOOLS, "device": ORIN}
    return fingerprint(**{**given, "calibration": None, **changes})


def test_same_inputs_same_name() -> None:
    assert str(name()) == name().digest
    assert len(name().digest) == 64
    assert name(spec=replace(SPEC, gpu_layers=("b", "a"))) == name()


def test_name_does_not_change_between_releases_of_edgetrt() -> None:
    expected = "b84ad596d03a"
    assert name().digest[:12] == expected


RANGE = ShapeRange((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"network": "01"},
        {"calibration": "aa"},
        {"spec": replace(SPEC, precision="fp16")},
        {"spec": replace(SPEC, typed=True)},
        {"spec": replace(SPEC, dla=None)},
        {"spec": replace(SPEC, gpu_layers=("a",))},
        {"spec": replace(SPEC, layer_precisions={"a": "fp16"})},
        {"spec": replace(SPEC, profiles=({"x": RANGE},))},
        {"spec": replace(SPEC, workspace_bytes=1 << 28)},
        {"spec": replace(SPEC, pools={"dla_local_dram": 1 << 28})},
        {"spec": replace(SPEC, opt_level=5)},
        {"spec": replace(SPEC, strict=True)},
        {"spec": replace(SPEC, allow_tf32=False)},
        {"toolchain": replace(TOOLS, version="10.3.0.26")},
        {"toolchain": replace(TOOLS, flavour="tensorrt_rtx")},
        {"toolchain": replace(TOOLS, cuda="12.2")},
        {"device": replace(ORIN, part_number="p3767-0001")},
        {"device": replace(ORIN, compute_capability="7.2")},
        {"device": replace(ORIN, soc="tegra194")},
    ],
    ids=str,
)
def test_everything_that_an_engine_depends_on_is_in_its_name(change: dict[str, Any]) -> None:
    other = name(**change)
    assert other.digest != name().digest
    assert len(other.differences(name().fields)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"spec": replace(SPEC, onnx=Path("elsewhere/m.onnx"))},
        {"spec": replace(SPEC, dla=1)},
        {"spec": replace(SPEC, timing_cache=Path("t"))},
        {"device": replace(ORIN, l4t="36.4.4", memory_bytes=1)},
    ],
    ids=str,
)
def test_what_makes_no_other_engine_is_not(change: dict[str, Any]) -> None:
    assert name(**change) == name()


def test_a_difference_is_told_in_words() -> None:
    theirs = name(toolchain=replace(TOOLS, version="8.6.2")).fields
    assert name().differences(theirs) == ["toolchain.version: '8.6.2', here '10.3.0.30'"]


def test_weights_beside_the_file_count(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    def save(value: float) -> str:
        weights = numpy_helper.from_array(np.full((64, 64), value, np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
            [weights],
        )
        onnx.save_model(
            helper.make_model(graph), str(path), save_as_external_data=True, location="w.bin"
        )
        digest = digest_network(path)
        (tmp_path / "w.bin").unlink()
        return digest

    assert save(1.0) != save(2.0)
    assert save(1.0) == save(1.0)
    with pytest.raises(ModelError, match=r"w\.bin"):
        digest_network(path)


def test_order_for_the_build_process_survives_the_pipe() -> None:
    spec = replace(
        SPEC, profiles=({"x": RANGE},), pools={"dla_local_dram": 5}, calibration=Path("c")
    )
    assert decode(encode(spec)) == spec
    with pytest.raises(EngineBuildError, match="cannot read"):
        decode(b'{"onnx": 5}')
