"""The work of a network: two floating-point operations per multiply-accumulate.

Convolution as in https://arxiv.org/abs/1611.06440, appendix A.1: 2 x output elements x (input
channels of a group x kernel area). Cheap operators count one per output element, pooling one per
element of its window; whatever only moves data counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetrt.model import shapes as shape_inference

if TYPE_CHECKING:
    from edgetrt.model.graph import Graph, Node
    from edgetrt.model.shapes import Shapes
    from edgetrt.types import Shape

# fmt: off
_MOVES = frozenset((
    "Concat", "Constant", "ConstantOfShape", "Cast", "CastLike", "DepthToSpace", "Dropout",
    "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "If",
    "Loop", "NonZero", "OneHot", "Optional", "OptionalGetElement", "OptionalHasElement", "Pad",
    "Range", "Reshape", "ReverseSequence", "Scan", "Scatter", "ScatterElements", "ScatterND",
    "SequenceAt", "SequenceConstruct", "Shape", "Size", "Slice", "SpaceToDepth", "Split",
    "SplitToSequence", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
))
_PER_INPUT = frozenset((
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin", "GlobalAveragePool",
    "GlobalMaxPool", "GlobalLpPool", "TopK", "CumSum",
))
# Operations per output element where it is clearly more than one.
_PER_OUTPUT = {
    "BatchNormalization": 2, "InstanceNormalization": 6, "LayerNormalization": 6,
    "GroupNormalization": 6, "RMSNormalization": 4, "LRN": 5, "Softmax": 4, "LogSoftmax": 4,
    "Sigmoid": 3, "Tanh": 4, "HardSigmoid": 2, "HardSwish": 3, "Gelu": 8, "Mish": 6, "Swish": 4,
    "Elu": 3, "Selu": 3, "Celu": 3, "Softplus": 3,
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of a graph.

    Attributes:
        flops: for one run, of everything that depends on the network's inputs.
        by_node: for each of the graph's nodes, in their order.
        assumed: nodes counted with a dynamic or unknown dimension taken as 1.
    """

    flops: int
    by_node: tuple[int, ...]
    assumed: int


def count_work(graph: Graph, shapes: Shapes | None = None) -> Work:
    """Count the FLOPs of one run; constants are computed once and count nothing."""
    known = shapes or shape_inference.infer(graph)
    counts: list[int] = []
    assumed = 0
    for node in graph.nodes:
        constant = all(name in known.constant for name in node.outputs if name)
        flops, sure = (0, True) if constant else _flops(node, known)
        counts.append(flops)
        assumed += not sure
    return Work(sum(counts), tuple(counts), assumed)


def _flops(node: Node, shapes: Shapes) -> tuple[int, bool]:
    """FLOPs, and whether all dimensions that enter them are known."""
    if node.op in _MOVES:
        return 0, True
    source, source_sure = _elements(shapes.shape(node.input(0)))
    result, result_sure = _elements(shapes.shape(node.outputs[0]) if node.outputs else ())
    per_result = _per_result(node, shapes)
    if per_result is not None:
        return result * per_result, result_sure
    if node.op in ("ConvTranspose",):
        weight, sure = _elements(shapes.shape(node.input(1)))
        channels = (shapes.shape(node.input(1)) or (1,))[0]
        return 2 * source * (weight // max(channels, 1)), source_sure and sure
    if node.op in _PER_INPUT:
        return source, source_sure
    return result * _PER_OUTPUT.get(node.op, 1), result_sure


def _per_result(node: Node, shapes: Shapes) -> int | None:
    """FLOPs per output element of the operators that sum over something."""
    if node.op in ("Conv", "ConvInteger", "QLinearConv"):
        weight = shapes.shape(node.input(3 if node.op == "QLinearConv" else 1))
        return None if weight is None else 2 * _elements(weight[1:])[0]
    if node.op in ("MatMul", "MatMulInteger"):
        left = shapes.shape(node.input(0))
        return None if not left else 2 * max(left[-1], 1)
    if node.op == "Gemm":
        left = shapes.shape(node.input(0))
        return None if not left else 2 * max(left[0 if node.int("transA", 0) else -1], 1)
    if node.op in ("AveragePool", "MaxPool", "LpPool"):
        return _elements(node.ints("kernel_shape", ()))[0]
    if node.op == "Resize":
        return 1 if node.text("mode", "nearest") == "nearest" else 8
    return None


def _elements(shape: Shape | None) -> tuple[int, bool]:
    """Product of the dimensions with unknown ones as 1, and whether all were known."""
    if shape is None:
        return 1, False
    count = 1
    for dim in shape:
        count *= dim if dim >= 0 else 1
    return count, min(shape, default=0) >= 0
