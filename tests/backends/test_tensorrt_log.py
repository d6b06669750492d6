from __future__ import annotations

import pytest

from edgetrt.backends import tensorrt_log as log
from edgetrt.engine.events import LogLine
from edgetrt.types import BuiltLayer


def lines(text: str, severity: str = "info") -> list[LogLine]:
    return [LogLine(severity, line) for line in text.strip().splitlines()]


TENSORRT_8 = """
---------- Layers Running on DLA ----------
[DlaLayer] {ForeignNode[/cnn/cnn.0/Conv.../cnn/cnn.11/Relu]}
[DlaLayer] {ForeignNode[/linear/Gemm]}
---------- Layers Running on GPU ----------
[GpuLayer] POOLING: /pool/GlobalAveragePool
[GpuLayer] SHUFFLE: reshape_after_/linear/Gemm
[GpuLayer] PLUGIN_V2: InstanceNormalization_5
"""
TENSORRT_10_SAMPLE = """
--------------- Layers running on DLA:
[DlaLayer] {ForeignNode[(Unnamed Layer* 0) [ElementWise]]},
--------------- Layers running on GPU:
[GpuLayer] (Unnamed Layer* 1) [Softmax],
"""


def test_placement_of_8() -> None:
    assert log.placement(lines(TENSORRT_8)) == (
        BuiltLayer("{ForeignNode[/cnn/cnn.0/Conv.../cnn/cnn.11/Relu]}", "DLA", "LOADABLE"),
        BuiltLayer("{ForeignNode[/linear/Gemm]}", "DLA", "LOADABLE"),
        BuiltLayer("/pool/GlobalAveragePool", "GPU", "POOLING"),
        BuiltLayer("reshape_after_/linear/Gemm", "GPU", "SHUFFLE"),
        BuiltLayer("InstanceNormalization_5", "GPU", "PLUGIN_V2"),
    )


def test_placement_of_the_newer_sample() -> None:
    assert log.placement(lines(TENSORRT_10_SAMPLE)) == (
        BuiltLayer("{ForeignNode[(Unnamed Layer* 0) [ElementWise]]}", "DLA", "LOADABLE"),
        BuiltLayer("(Unnamed Layer* 1) [Softmax]", "GPU", "UNKNOWN"),
    )


def test_a_gpu_build_lists_nothing() -> None:
    assert log.placement(lines("Engine generation completed in 1 seconds.")) == ()


@pytest.mark.parametrize(
    ("text", "layer", "why"),
    [
        (
            "Layer 'Reshape_2' (SHUFFLE): Unsupported on DLA. Switching this layer's device type"
            " to GPU.",
            "Reshape_2",
            "Unsupported on DLA",
        ),
        (
            "Default DLA is enabled but layer prob is not supported on DLA, falling back to GPU.",
            "prob",
            "is not supported on DLA",
        ),
        (
            "DLA only supports FP16 and Int8 precision type. Switching conv1 device type to GPU.",
            "conv1",
            "DLA only supports FP16 and Int8 precision type",
        ),
        (
            "DLA Layer conv1 does not support dynamic shapes in any dimension.",
            "conv1",
            "does not support dynamic shapes in any dimension",
        ),
        (
            "DLA supports only 16 subgraphs per DLA core. Switching to GPU for layer conv9",
            "conv9",
            "DLA supports only 16 subgraphs per DLA core",
        ),
        (
            "up1: DLA cores do not support Resize with scale 3.",
            "up1",
            "DLA cores do not support Resize with scale 3",
        ),
        (
            "conv3 cannot run in INT8 mode due to missing scale and zero point. This node will not"
            " run on DLA.",
            "conv3",
            "cannot run in INT8 mode due to missing scale and zero point",
        ),
    ],
)
def test_reasons(text: str, layer: str, why: str) -> None:
    assert log.reasons(lines(text, "warning")) == {layer: why}


def test_first_reason_stays_and_other_lines_are_left_alone() -> None:
    found = log.reasons(
        lines(
            "Layer 'a' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU.\n"
            "a: DLA cores do not support this.\n"
            "Splitting DLA subgraph\n"
        )
    )
    assert found == {"a": "Unsupported on DLA"}


@pytest.mark.parametrize(
    ("text", "severity", "expected"),
    [
        ("NvMapMemAllocInternalTagged: 1075072515 error 12", "error", True),
        (
            "Requested amount of GPU memory (2 bytes) could not be allocated: OutOfMemory",
            "error",
            True,
        ),
        ("Cuda failure: 2", "error", True),
        ("Skipping tactic due to insufficient memory on requested size", "warning", True),
        ("out of memory is what we fear", "info", False),
        ("Cuda failure: 209", "error", False),
    ],
)
def test_out_of_memory(text: str, severity: str, expected: bool) -> None:
    assert log.out_of_memory(lines(text, severity)) == expected


def test_errors_are_the_last_different_ones() -> None:
    assert log.errors(lines("a\nb\na\nc", "error"), most=2) == ["b", "c"]


def test_nodes_that_the_parser_of_8_refuses() -> None:
    text = 'ModelImporter.cpp:726: While parsing node number 3 [MyOp -> "y"]:'
    assert log.failed_nodes(lines(text, "error")) == {3: "MyOp"}


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("Local timing cache in use. Profiling results in this builder pass", "timing kernels"),
        ("Graph optimization time: 0.01 seconds.", "optimising the graph"),
        ("---------- Layers Running on DLA ----------", "placing layers"),
        ("Total Activation Memory: 52009984 bytes", "planning memory"),
        ("Engine generation completed in 0.298261 seconds.", "writing the plan"),
        ("Input filename: x", None),
    ],
)
def test_steps(text: str, step: str | None) -> None:
    assert log.step(text) == step
