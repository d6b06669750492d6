"""The builder against stand-ins that lack what their release lacks."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgetrt.backends.tensorrt_api import Library
from edgetrt.backends.tensorrt_build import build
from edgetrt.engine.events import Built, LogLine, Progress
from edgetrt.engine.plan import check_header, read_header
from edgetrt.engine.spec import BuildSpec, ShapeRange
from edgetrt.errors import (
    BackendError,
    EdgetrtError,
    EngineBuildError,
    ModelError,
    PlacementError,
    UnsupportedOperatorError,
)
from tests.backends.tensorrt_networks import conv_net
from tests.standins.tensorrt import RELEASES, make, surface

if TYPE_CHECKING:
    from collections.abc import Callable

FLAGGED = ("8.5.2", "8.6.1", "10.3.0")
NO_EVENTS: Callable[[object], None] = lambda event: None  # noqa: E731


def library(release: str, **machine: Any) -> Library:
    return Library(make(release, **machine), "tensorrt", release)


def attempt(spec: BuildSpec, lib: Library) -> tuple[bytes, Built, Any]:
    plan, built = build(spec, lib, NO_EVENTS)
    return plan, built, lib.trt.machine


@pytest.mark.parametrize("release", RELEASES)
def test_builds_with_every_release(release: str, tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), opt_level=3, workspace_bytes=1 << 28)
    plan, built, machine = attempt(spec, library(release))
    check_header(read_header(plan), "tensorrt", tuple(map(int, release.split("."))))
    assert built.toolchain == f"tensorrt {release}"
    assert [layer.name for layer in built.layers] == ["conv1", "relu1", "conv2", "softmax"]
    assert {layer.device for layer in built.layers} == {"GPU"}
    assert machine.config._pools == {"WORKSPACE": 1 << 28}
    assert built.source == "inspector"


@pytest.mark.parametrize("release", RELEASES)
def test_network_is_made_with_the_flags_that_the_release_has(release: str, tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), precision="fp16", typed=True)
    _, _, machine = attempt(spec, library(release))
    kinds = machine.trt.NetworkDefinitionCreationFlag
    has = {kind.name for kind in kinds if machine.network._flags & 1 << int(kind)}
    strong = {"STRONGLY_TYPED"} if not release.startswith("8") else set()
    explicit = {"EXPLICIT_BATCH"} if not release.startswith("11") else set()
    assert has == strong | explicit
    assert ("FP16" in machine.config._flags) == release.startswith("8")


@pytest.mark.parametrize("release", FLAGGED)
def test_untyped_precision_becomes_flags_before_11(release: str, tmp_path: Path) -> None:
    cache = tmp_path / "scales.cache"
    cache.write_text("TRT-8600-EntropyCalibration2\nx: 3f800000\n", encoding="ascii")
    spec = BuildSpec(
        conv_net(tmp_path / "m.onnx"),
        precision="int8",
        calibration=cache,
        layer_precisions={"conv2": "fp16"},
        allow_tf32=False,
    )
    _, _, machine = attempt(spec, library(release))
    assert machine.config._flags == {"FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"}
    assert machine.config.int8_calibrator.read_calibration_cache() == cache.read_bytes()
    assert machine.config.int8_calibrator.get_batch(["x"]) is None
    half = machine.trt.DataType.HALF
    assert machine.network._layers[2].precision == half
    assert machine.network._layers[2].get_output_type(0) == half
    assert machine.network._layers[0].precision is None


def test_untyped_precision_is_refused_from_11_on(tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), precision="fp16")
    with pytest.raises(ModelError, match=r"fp16 is asked for.*11\.4\.0 takes the precision"):
        build(spec, library("11.4.0"), NO_EVENTS)


def test_int8_without_scales_is_refused(tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), precision="int8")
    with pytest.raises(ModelError, match="no calibration cache, no Q/DQ") as caught:
        build(spec, library("10.3.0"), NO_EVENTS)
    assert "--calib" in caught.value.hint


def test_int8_with_a_file_that_is_no_calibration_cache(tmp_path: Path) -> None:
    model = conv_net(tmp_path / "m.onnx")
    spec = BuildSpec(model, precision="int8", calibration=model)
    with pytest.raises(ModelError, match="expected TRT-<version>-EntropyCalibration2"):
        build(spec, library("8.6.1"), NO_EVENTS)
    spec = BuildSpec(model, precision="int8", calibration=tmp_path / "none")
    with pytest.raises(ModelError, match="cannot be read"):
        build(spec, library("8.6.1"), NO_EVENTS)


@pytest.mark.parametrize("release", FLAGGED)
def test_dla_is_set_up_as_trtexec_does(release: str, tmp_path: Path) -> None:
    spec = BuildSpec(
        conv_net(tmp_path / "m.onnx"),
        precision="fp16",
        dla=1,
        pools={"dla_local_dram": 1 << 28},
        gpu_layers=("relu1",),
    )
    _, built, machine = attempt(spec, library(release, dla_cores=2))
    config = machine.config
    assert config.default_device_type == machine.trt.DeviceType.DLA
    assert config.DLA_core == 1
    assert {"FP16", "PREFER_PRECISION_CONSTRAINTS", "GPU_FALLBACK"} <= config._flags
    assert "DIRECT_IO" not in config._flags
    assert config._pools == {"DLA_LOCAL_DRAM": 1 << 28}
    assert [(layer.name, layer.device) for layer in built.layers] == [
        ("{ForeignNode[conv1]}", "DLA"),
        ("relu1", "GPU"),
        ("{ForeignNode[conv2]}", "DLA"),
        ("softmax", "GPU"),
    ]
    assert built.reasons == {"softmax": "Unsupported on DLA"}
    assert built.warnings == ()


def test_dla_in_11_takes_typed_networks_and_asks_the_parser_to_adjust(tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), precision="fp16", typed=True, dla=0)
    _, built, machine = attempt(spec, library("11.4.0", dla_cores=2))
    assert machine.parser_flags == {"ADJUST_FOR_DLA"}
    assert machine.config._flags == {"TF32", "GPU_FALLBACK"}
    assert built.layers[0].name == "{ForeignNode[conv1...conv2]}"
    assert built.layers[0].nodes == ("conv1", "relu1", "conv2")


def test_without_a_gpu_the_placement_comes_from_the_log(tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), precision="fp16", dla=0)
    lines: list[object] = []
    lib = library("10.3.0", dla_cores=1, gpu=False)
    _, built = build(spec, lib, lines.append)
    assert built.source == "log"
    assert [layer.kind for layer in built.layers] == ["LOADABLE", "SOFTMAX"]
    assert not [line for line in lines if isinstance(line, LogLine) and line.severity == "error"]


@pytest.mark.parametrize(
    ("release", "cores", "precision", "message"),
    [
        ("10.13.3", 0, "fp16", "DLA core 0 was asked for; TensorRT 10.13.3 .* has none"),
        ("10.3.0", 1, "fp32", "computes in fp16 and int8, fp32 was asked for"),
    ],
)
def test_dla_that_is_not_there(
    release: str, cores: int, precision: Any, message: str, tmp_path: Path
) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"), precision=precision, dla=0)
    with pytest.raises(PlacementError, match=message) as caught:
        build(spec, library(release, dla_cores=cores), NO_EVENTS)
    assert caught.value.hint


def test_strict_names_the_layers_left_on_the_gpu(tmp_path: Path) -> None:
    lib = library("10.3.0", dla_cores=1)
    spec = BuildSpec(conv_net(tmp_path / "a.onnx"), precision="fp16", dla=0, strict=True)
    with pytest.raises(
        PlacementError, match=r"1 computing layers .*softmax \(Unsupported on DLA\)"
    ):
        build(spec, lib, NO_EVENTS)
    whole = conv_net(tmp_path / "b.onnx", softmax=False)
    _, built = build(BuildSpec(whole, precision="fp16", dla=0, strict=True), lib, NO_EVENTS)
    assert [layer.device for layer in built.layers] == ["DLA"]


def test_pin_of_a_layer_that_does_not_exist_is_told(tmp_path: Path) -> None:
    spec = BuildSpec(
        conv_net(tmp_path / "m.onnx"), precision="fp16", dla=0, gpu_layers=("conv9", "conv1")
    )
    _, built, _ = attempt(spec, library("8.6.1", dla_cores=1))
    assert built.warnings == ("pinned layer 'conv9' is not in the network that is built",)
    assert built.layers[0].name == "conv1"
    assert built.layers[0].device == "GPU"


@pytest.mark.parametrize("release", RELEASES)
def test_every_refused_node_is_named(release: str, tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx", custom=2))
    with pytest.raises(UnsupportedOperatorError) as caught:
        build(spec, library(release), NO_EVENTS)
    names = ("#4", "#5") if release.startswith("8") else ("foo0", "foo1")
    assert "refuses 2 nodes" in caught.value.message
    for name in names:
        assert f"Foo {name!r}: no such operator" in caught.value.message


def test_dynamic_inputs_need_ranges_that_fit(tmp_path: Path) -> None:
    model, lib = conv_net(tmp_path / "m.onnx", batch="n"), library("10.3.0", dla_cores=1)

    def refused(**options: Any) -> str:
        with pytest.raises(ModelError) as caught:
            build(BuildSpec(model, **options), lib, NO_EVENTS)
        return caught.value.message

    def span(low: int, high: int) -> ShapeRange:
        return ShapeRange((low, 3, 8, 8), (low, 3, 8, 8), (high, 3, 8, 8))

    assert "without a range: x [-1, 3, 8, 8]" in refused()
    assert "without a range: x" in refused(profiles=({},))
    assert "shapes for y, inputs are x" in refused(profiles=({"y": span(1, 2), "x": span(1, 2)},))
    assert "does not fit input x" in refused(profiles=({"x": span(4, 2)},))
    wrong = ShapeRange((1, 4, 8, 8), (1, 4, 8, 8), (1, 4, 8, 8))
    assert "does not fit input x" in refused(profiles=({"x": wrong},))
    assert "has 4 dimensions" in refused(profiles=({"x": ShapeRange((1,), (1,), (1,))},))
    assert "the DLA takes one shape only" in refused(
        profiles=({"x": span(1, 2)},), dla=0, precision="fp16"
    )
    build(BuildSpec(model, profiles=({"x": span(1, 4)},)), lib, NO_EVENTS)
    shapes = ((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))
    assert lib.trt.machine.config._profiles == [{"x": shapes}]


@pytest.mark.parametrize("release", RELEASES)
def test_progress_comes_from_the_monitor_or_from_the_log(release: str, tmp_path: Path) -> None:
    events: list[object] = []
    build(BuildSpec(conv_net(tmp_path / "m.onnx")), library(release), events.append)
    told = [event for event in events if isinstance(event, Progress)]
    if release.startswith("8"):
        assert [event.phase for event in told][-2:] == ["timing kernels", "writing the plan"]
    else:
        assert told[-1] == Progress("Building Engine", 1.0)


def test_cancelled_between_two_steps(tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match="cancelled"):
        build(BuildSpec(conv_net(tmp_path / "m.onnx")), library("10.3.0"), NO_EVENTS, lambda: True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("[defaultAllocator.cpp] Cuda failure: out of memory", "ran out of memory"),
        (
            "Error Code 10: Could not find any implementation for node conv1",
            "built no engine.*conv1",
        ),
    ],
)
def test_a_build_that_fails_says_why(said: str, message: str, tmp_path: Path) -> None:
    spec = BuildSpec(conv_net(tmp_path / "m.onnx"))
    with pytest.raises(EngineBuildError, match=message) as caught:
        build(spec, library("8.6.1", fails=said), NO_EVENTS)
    assert caught.value.hint


def test_builder_that_cannot_start(tmp_path: Path) -> None:
    lib = library("10.3.0")

    def broken(logger: Any) -> None:
        logger.log(lib.trt.machine.severity, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    class Error:
        name = "ERROR"

    lib.trt.machine.severity = Error
    lib.trt.Builder = broken
    with pytest.raises(BackendError, match="CUDA initialization failure"):
        build(BuildSpec(conv_net(tmp_path / "m.onnx")), lib, NO_EVENTS)


def test_timing_cache_is_kept_and_one_of_another_device_is_not_used(tmp_path: Path) -> None:
    model, file = conv_net(tmp_path / "m.onnx"), tmp_path / "timing" / "t.cache"
    spec, lib = BuildSpec(model, timing_cache=file), library("10.3.0")
    build(spec, lib, NO_EVENTS)
    build(spec, lib, NO_EVENTS)
    assert file.read_bytes() == b"++"
    file.write_bytes(b"other device")
    build(spec, lib, NO_EVENTS)
    assert file.read_bytes() == b"+"


def test_damaged_or_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        build(BuildSpec(tmp_path / "none.onnx"), library("10.3.0"), NO_EVENTS)


def test_stand_in_fails_where_the_release_lacks_something() -> None:
    trt = make("11.4.0")
    config = trt.Builder(trt.ILogger()).create_builder_config()
    with pytest.raises(AttributeError):
        _ = trt.BuilderFlag.FP16
    with pytest.raises(AttributeError):
        config.int8_calibrator = None
    with pytest.raises(AttributeError):
        make("8.5.2").IBuilderConfig().builder_optimization_level = 3
    assert not hasattr(make("8.6.1"), "IProgressMonitor")


GUARDED = {
    "IProgressMonitor",
    "IProgressMonitor.__init__",
    "IInt8EntropyCalibrator2",
    "IInt8EntropyCalibrator2.__init__",
    "OnnxParserFlag",
    "OnnxParserFlag.ADJUST_FOR_DLA",
    "IBuilderConfig.progress_monitor",
    "IBuilderConfig.builder_optimization_level",
    "IBuilderConfig.int8_calibrator",
    "OnnxParser.set_flag",
    "ILayer.precision",
    "ILayer.set_output_type",
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.PREFER_PRECISION_CONSTRAINTS",
    "ParserError.node_name",
    "ParserError.node_operator",
}
"""Touched only behind a `hasattr`, or only where precision flags exist."""

OBJECTS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "layer": "ILayer",
    "tensor": "ITensor",
    "profile": "IOptimizationProfile",
    "error": "ParserError",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "flags": "BuilderFlag",
    "kinds": "NetworkDefinitionCreationFlag",
    "pools": "MemoryPoolType",
}
"""Classes of the variables in `tensorrt_build` and `tensorrt_network`."""


def names_in_the_source() -> set[str]:
    """`Class` and `Class.attribute` for every use of TensorRT in the builder."""
    folder, used = Path(__file__).parents[2] / "edgetrt" / "backends", set()
    for stem in ("tensorrt_build", "tensorrt_network", "tensorrt_callbacks"):
        for node in ast.walk(ast.parse((folder / f"{stem}.py").read_text(encoding="utf-8"))):
            first, _, rest = dotted(node).partition(".")
            if first == "trt" and rest:
                used.add(rest)
            elif first in OBJECTS and rest and stem != "tensorrt_callbacks":
                used.add(f"{OBJECTS[first]}.{rest.partition('.')[0]}")
    # `error` is an exception there; EXPLICIT_BATCH is asked for before it is used.
    return used - {"ParserError.strerror", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"}


@pytest.mark.parametrize("release", [*RELEASES, "rtx-1.7.1", "stubs-10.13.0"])
def test_every_name_in_the_source_exists_in_every_release(release: str) -> None:
    used, names = names_in_the_source(), surface(release)
    assert {"Builder", "IBuilderConfig.set_memory_pool_limit", "ParserError.desc"} <= used
    allowed = GUARDED | {"NetworkDefinitionCreationFlag.STRONGLY_TYPED"}
    ours = {"ILayer.device", "ILayer.kind"}  # a layer of our own report
    assert {name for name in used - allowed - ours if not there(names, name)} == set()


def test_every_guarded_name_exists_somewhere() -> None:
    surfaces = [surface(release) for release in RELEASES]
    assert [name for name in GUARDED if not any(there(names, name) for names in surfaces)] == []


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def there(names: dict[str, set[str]], path: str) -> bool:
    kind, _, attribute = path.partition(".")
    if kind not in names["module"]:
        return False
    return not attribute or attribute.startswith("__") or attribute in names[kind]


def test_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(EdgetrtError):
        build(BuildSpec(tmp_path / "x.onnx", dla=3), library("8.5.2"), NO_EVENTS)
