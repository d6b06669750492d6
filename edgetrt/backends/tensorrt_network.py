"""From an ONNX file to TensorRT's network: parser errors told by node, profiles for dynamic inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetrt.backends import tensorrt_log
from edgetrt.errors import EngineBuildError, ModelError, UnsupportedOperatorError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgetrt.engine.events import LogLine
    from edgetrt.engine.spec import BuildSpec, ShapeRange

_PLUGIN = re.compile(r"Plugin not found|No importer registered|creator &&")


@dataclass(frozen=True)
class Refusal:
    """One node that the parser did not take."""

    node: str
    op: str
    why: str

    def __str__(self) -> str:
        return f"{self.op or 'node'} {self.node!r}: {self.why}"


def parse(parser: Any, onnx: Path, lines: Sequence[LogLine]) -> None:
    """Read the file into the parser's network.

    Raises:
        UnsupportedOperatorError: every node that was refused, with its reason.
        ModelError: the file is missing or damaged.
    """
    if not onnx.is_file():
        raise ModelError(f"{onnx}: no such file", "Check the path.")
    if parser.parse_from_file(str(onnx)):
        return
    found = refusals(parser, lines)
    nodes = [refusal for refusal in found if refusal.op or refusal.node]
    if not nodes:
        said = "; ".join(refusal.why for refusal in found) or "the parser gave no reason"
        raise ModelError(f"{onnx}: TensorRT cannot read it: {said}", "Export the network again.")
    shown = "; ".join(map(str, nodes[:10]))
    more = f"; and {len(nodes) - 10} more" if len(nodes) > 10 else ""
    raise UnsupportedOperatorError(
        f"{onnx}: TensorRT refuses {len(nodes)} nodes: {shown}{more}",
        "Export with operators that TensorRT has, or keep these nodes out of the engine;"
        " `--backend onnxruntime` runs the network as it is.",
    )


def refusals(parser: Any, lines: Sequence[LogLine]) -> list[Refusal]:
    """The parser's errors; 8.x gives a node's number only, its operator stands in the log."""
    ops = tensorrt_log.failed_nodes(lines)
    out = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        number = error.node()
        if hasattr(error, "node_operator"):
            name, op = error.node_name(), error.node_operator()
        else:
            name, op = (f"#{number}", ops.get(number, "")) if number >= 0 else ("", "")
        why = "no such operator" if _PLUGIN.search(error.desc()) else _reason(error)
        out.append(Refusal(name, op, why))
    return out


def _reason(error: Any) -> str:
    """The parser's words, or its code where the words are only a failed assertion."""
    text = str(error.desc()).strip()
    code = error.code().name.lower().replace("_", " ")
    return code if text in {"", "false"} else f"{text} ({code})"


def add_profiles(builder: Any, network: Any, config: Any, spec: BuildSpec) -> None:
    """Give the builder the shapes of dynamic inputs.

    Raises:
        ModelError: a dynamic input without a range, a range without an input, or one that does not
            fit; on the DLA also a range of more than one shape.
    """
    inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    dynamic = {name for name, shape in shapes.items() if -1 in shape}
    dynamic |= {name for name, tensor in inputs.items() if tensor.is_shape_tensor}
    if dynamic and not spec.profiles:
        raise _missing(spec, dynamic, shapes)
    for ranges in spec.profiles:
        if unknown := sorted(set(ranges) - set(inputs)):
            raise ModelError(
                f"{spec.onnx}: shapes for {', '.join(unknown)}, inputs are {', '.join(inputs)}",
                "Name the network's own inputs.",
            )
        if left := dynamic - set(ranges):
            raise _missing(spec, left, shapes)
        profile = builder.create_optimization_profile()
        for name, shape_range in ranges.items():
            _check_range(spec, name, shapes[name], shape_range)
            values = (shape_range.min, shape_range.opt, shape_range.max)
            if inputs[name].is_shape_tensor:
                profile.set_shape_input(name, *values)
            else:
                profile.set_shape(name, *values)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(
                f"{spec.onnx}: TensorRT refuses the optimization profile {ranges}",
                "Every dimension needs min <= opt <= max.",
            )


def _missing(spec: BuildSpec, names: set[str], shapes: dict[str, tuple[int, ...]]) -> ModelError:
    told = ", ".join(f"{name} {list(shapes[name])}" for name in sorted(names))
    return ModelError(
        f"{spec.onnx}: inputs of dynamic shape without a range: {told}",
        "Give min, opt and max shapes, or export with fixed shapes (-1 is what is open).",
    )


def _check_range(
    spec: BuildSpec, name: str, shape: tuple[int, ...], shape_range: ShapeRange
) -> None:
    """Every shape must fit the input, and the three must be ordered."""
    low, usual, high = shape_range.min, shape_range.opt, shape_range.max
    if {len(low), len(usual), len(high)} != {len(shape)}:
        raise ModelError(
            f"{spec.onnx}: input {name} has {len(shape)} dimensions, its range {low} {usual} {high}",
            "Give as many numbers as the input has dimensions.",
        )
    for size, a, b, c in zip(shape, low, usual, high, strict=True):
        if not a <= b <= c or (size != -1 and {a, b, c} != {size}):
            raise ModelError(
                f"{spec.onnx}: range {low} {usual} {high} does not fit input {name} {list(shape)}",
                "Fixed dimensions keep their size; open ones need min <= opt <= max.",
            )
    if spec.dla is not None and not shape_range.fixed:
        raise ModelError(
            f"{spec.onnx}: input {name} ranges from {low} to {high}; the DLA takes one shape only",
            "Give min = opt = max, or export with fixed shapes.",
        )
