"""What the DLA's rules measure of a layer. Pure; None is "not known before the first run"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edgetrt.model.windows import buffer_banks, window

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.model.graph import Graph, Node
    from edgetrt.model.shapes import Shapes
    from edgetrt.types import Shape

Measures = dict[str, Any]

_NEAREST_LIMIT, _LINEAR_LIMIT = 32, 4


def general(node: Node, shapes: Shapes) -> Measures:
    """What is measured of every layer: over the tensors that depend on the network's input."""
    names = [name for name in (*node.inputs, *node.outputs) if name and name not in shapes.constant]
    known = [shapes.shape(name) for name in names]
    sizes = [shape for shape in known if shape is not None]
    static = len(sizes) == len(known) and all(min(shape, default=1) >= 0 for shape in sizes)
    return {
        "static": True if static else _dynamic(names, shapes),
        "dtypes": sorted({shapes.dtypes.get(name, "unknown") for name in names}),
        "ranks": sorted({len(shape) for shape in sizes}),
        "batch": max((math.prod(shape[:-3]) for shape in sizes), default=1),
        "extents": max((dim for shape in sizes for dim in shape[-3:]), default=0),
    }


def specific(node: Node, graph: Graph, shapes: Shapes, bytes_per_value: int) -> Measures:
    """What is measured of this kind of layer."""
    rule = _MEASURES.get(node.op)
    measures = rule(node, shapes) if rule is not None else {}
    if "buffer" in measures:
        channels, kernel, dilation, width = measures.pop("buffer")
        measures["buffer_banks"] = buffer_banks(channels, kernel, dilation, width, bytes_per_value)
    measures.setdefault(
        "weights_constant",
        all(name in shapes.constant for name in node.inputs[1:] if name),
    )
    measures["single_output"] = not any(
        name in graph.consumers or name in graph.output_names for name in node.outputs[1:]
    )
    return measures


def _dynamic(names: list[str], shapes: Shapes) -> str:
    """The first tensor with an open dimension, in words."""
    for name in names:
        shape = shapes.shape(name)
        if shape is None:
            return f"{name} of unknown shape"
        if min(shape, default=1) < 0:
            return f"{name} [{', '.join('?' if dim < 0 else str(dim) for dim in shape)}]"
    return "unknown"


def _convolution(node: Node, shapes: Shapes) -> Measures:
    weight, source = shapes.shape(node.input(1)), shapes.shape(node.input(0))
    if weight is None or source is None or len(weight) != 4 or len(source) != 4:
        return {}
    kernel = weight[2:]
    return {
        **window(node, shapes, kernel),
        "channels_out": weight[0],
        "groups": node.int("group", 1),
        "buffer": (weight[1], kernel, node.ints("dilations", (1, 1))[0], source[3]),
    }


def _deconvolution(node: Node, shapes: Shapes) -> Measures:
    weight = shapes.shape(node.input(1))
    if weight is None or len(weight) != 4:
        return {}
    kernel, stride = weight[2:], node.ints("strides", (1, 1))
    groups = node.int("group", 1)
    return {
        **window(node, shapes, kernel),
        "output_padding": node.ints("output_padding", (0, 0)),
        "channels_out": weight[1] * groups,
        "groups": groups,
        "wide_square": any(a == b and 23 <= a <= 32 for a, b in (kernel, stride)),
    }


def _pooling(node: Node, shapes: Shapes) -> Measures:
    kernel = node.ints("kernel_shape", ())
    measures = window(node, shapes, kernel)
    excluded = node.op == "AveragePool" and not node.int("count_include_pad", 0)
    return {**measures, "inclusive_padding": not (excluded and any(measures["padding"]))}


def _matrix(node: Node, shapes: Shapes) -> Measures:
    left, right = shapes.shape(node.input(0)), shapes.shape(node.input(1))
    constant = node.input(1) in shapes.constant
    if left is None or right is None or not left or len(right) != 2:
        return {"weights_constant": constant, "ranks": [len(left or ())]}
    swapped = node.op == "Gemm" and bool(node.int("transB", 0))
    inner, outer = (right[1], right[0]) if swapped else right
    return {
        "weights_constant": constant,
        "ranks": [len(left)],
        "untransposed": node.op == "MatMul" or not node.int("transA", 0),
        "channels_in": inner,
        "channels_out": outer,
        "buffer": (inner, (1, 1), 1, 1),
    }


def _clip(node: Node, shapes: Shapes) -> Measures:
    return {
        "lower": bound(node, shapes, 1, "min", -math.inf),
        "upper": bound(node, shapes, 2, "max", math.inf),
    }


def bound(node: Node, shapes: Shapes, index: int, name: str, default: float) -> float | None:
    """A limit of Clip, which is an attribute before opset 11 and an input since."""
    if name in node.attributes or not node.input(index):
        return node.float(name, default)
    values = shapes.floats(node.input(index))
    return values[0] if values else None


def _elementwise(node: Node, shapes: Shapes) -> Measures:
    result = shapes.shape(node.outputs[0])
    operands = [(name in shapes.constant, shapes.shape(name)) for name in node.inputs]
    if result is None or any(shape is None for _, shape in operands):
        return {"broadcast": None}
    bad = [
        shape for const, shape in operands if shape is not None and not _fits(shape, result, const)
    ]
    return {"broadcast": "×".join(map(str, bad[0])) if bad else True}


def _fits(shape: Shape, result: Shape, constant: bool) -> bool:
    """Equal, N×C×1×1 or N×1×1×1; a constant may leave out leading dimensions of 1."""
    if constant or len(shape) == len(result):
        shape = (1,) * (len(result) - len(shape)) + shape
    if shape == result:
        return True
    if len(shape) != len(result) or any(dim != 1 for dim in shape[2:]):
        return False
    batch = constant or shape[0] == result[0]
    return batch and shape[1] in (1, result[1])


def _reduce(node: Node, shapes: Shapes) -> Measures:
    source = shapes.shape(node.input(0))
    if node.op.startswith("Global"):
        return {"reduces_space": True}
    return {"reduces_space": source is not None and reduces_space(node, shapes, len(source))}


def reduces_space(node: Node, shapes: Shapes, rank: int) -> bool:
    """Whether a reduction is over height and width and keeps them as 1."""
    axes = node.ints("axes", ()) or shapes.ints(node.input(1)) or ()
    return bool(node.int("keepdims", 1)) and {axis % rank for axis in axes if rank} == {
        rank - 2,
        rank - 1,
    }


def _concat(node: Node, shapes: Shapes) -> Measures:
    rank = len(shapes.shape(node.outputs[0]) or ())
    axis = node.int("axis", 1)
    return {
        "axis": axis % rank if rank else axis,
        "inputs": len(node.inputs),
        "joins_constant": any(name in shapes.constant for name in node.inputs),
    }


def _resize(node: Node, shapes: Shapes) -> Measures:
    scales = resize_scales(node, shapes)
    sampling = resize_sampling(node)
    if scales is None or len(scales) != 4:
        return {"by_scales": False}
    limit = _LINEAR_LIMIT if sampling.startswith("linear") else _NEAREST_LIMIT
    whole = all(scale == int(scale) for scale in scales)
    return {
        "by_scales": True,
        "outer_scales": scales[:2],
        "integer_scales": True if whole else "×".join(f"{scale:g}" for scale in scales[2:]),
        "sampling": sampling,
        "scale_limit": max(scales[2:]) / limit,
    }


def resize_scales(node: Node, shapes: Shapes) -> tuple[float, ...] | None:
    """Constant scales of a Resize or Upsample; None when it has none, or gives a size."""
    if node.attributes.get("scales"):
        return tuple(node.attributes["scales"])
    index = 1 if node.op == "Upsample" or len(node.inputs) == 2 else 2
    return shapes.floats(node.input(index)) or None


def resize_sampling(node: Node) -> str:
    """`mode:coordinates[:rounding]`, with the defaults of the operator's version."""
    mode = node.text("mode", "nearest").replace("bilinear", "linear")
    old = node.op == "Upsample" or (
        len(node.inputs) == 2 and "coordinate_transformation_mode" not in node.attributes
    )
    where = node.text("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if mode != "nearest":
        return f"{mode}:{where}"
    rounding = node.text("nearest_mode", "floor" if old else "round_prefer_floor")
    return f"nearest:{where}:{rounding}"


def _slice(node: Node, shapes: Shapes) -> Measures:
    source = shapes.shape(node.input(0)) or ()
    if node.op == "Split":
        axis = node.int("axis", 0)
        return {
            "steps": (1,),
            "keeps_batch": bool(source) and axis % len(source) != 0,
            **_parameters(node, shapes),
        }
    result = shapes.shape(node.outputs[0]) or ()
    steps = shapes.ints(node.input(4)) if node.input(4) else (1,)
    return {"steps": steps, "keeps_batch": source[:1] == result[:1], **_parameters(node, shapes)}


def _parameters(node: Node, shapes: Shapes) -> Measures:
    return {"parameters_constant": all(n in shapes.constant for n in node.inputs[1:] if n)}


def _softmax(node: Node, shapes: Shapes) -> Measures:
    source = shapes.shape(node.input(0)) or ()
    axis = node.int("axis", -1) % max(len(source), 1)
    alone = math.prod(source[1:]) == source[axis] if source else False
    return {"softmax_extent": 0 if alone else (source[axis] if source else None)}


def _shuffle(node: Node, shapes: Shapes) -> Measures:
    source, result = shapes.shape(node.input(0)) or (), shapes.shape(node.outputs[0]) or ()
    if node.op == "Transpose":
        keeps = node.ints("perm", tuple(reversed(range(len(source)))))[:1] == (0,)
    else:
        keeps = source[:1] == result[:1]
    return {"keeps_batch": keeps, **_parameters(node, shapes)}


_MEASURES: dict[str, Callable[[Node, Shapes], Measures]] = {
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "Gemm": _matrix,
    "MatMul": _matrix,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    "GlobalMaxPool": _reduce,
    "ReduceMax": _reduce,
    "Clip": _clip,
    "LRN": lambda node, _: {"window": node.int("size", 0)},
    "Concat": _concat,
    "Resize": _resize,
    "Upsample": _resize,
    "Slice": _slice,
    "Split": _slice,
    "Softmax": _softmax,
    "Reshape": _shuffle,
    "Transpose": _shuffle,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum"), _elementwise),
}
