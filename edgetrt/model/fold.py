"""Values of constant expressions: the arithmetic that exporters do on shapes, with numpy.

Unknown is always a safe answer: whatever is not one of the simple operators, is malformed, or would
be large has no value here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgetrt.model.graph import Node, dtype_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgetrt.types import Shape

SMALL = 4096
"""Elements up to which a constant is kept as a value."""


def evaluate(
    node: Node,
    shapes: Mapping[str, Shape],
    values: Mapping[str, NDArray[np.generic]],
    limit: int = SMALL,
) -> NDArray[np.generic] | None:
    """Value of a node's only output; None when it is no simple one, or over `limit` elements."""
    import numpy as np

    if len(node.outputs) != 1:
        return None
    if node.op in ("Shape", "Size"):
        shape = shapes[node.input(0)]
        if node.op == "Size":
            return np.asarray(np.prod(shape, dtype=np.int64))
        return np.asarray(shape[node.int("start", 0) : node.attributes.get("end")], np.int64)
    rule = _RULES.get(node.op)
    if rule is None or any(name and name not in values for name in node.inputs):
        return None
    size = (
        math.prod(values[node.input(0)].tolist()) if node.op == "ConstantOfShape" else _made(node)
    )
    if size > limit:
        return None
    try:
        result = rule(node, [values.get(name) for name in node.inputs])
    except (
        ValueError,
        IndexError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        MemoryError,
    ):
        return None  # malformed or huge: unknown is always a safe answer
    return None if result is None else np.asarray(result)


def _made(node: Node) -> int:
    """Elements of a Constant, before they are decoded."""
    return math.prod(node.attributes["value"].dims) if "value" in node.attributes else 0


def _constant(node: Node, _: list[Any]) -> Any:
    import numpy as np
    from onnx import numpy_helper

    if "value" in node.attributes:
        tensor = node.attributes["value"]
        if tensor.data_location == tensor.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64)):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype)
    for name in ("value_float", "value_floats"):
        if name in node.attributes:
            return np.asarray(node.attributes[name], np.float32)
    return None


def _cast(node: Node, inputs: list[Any]) -> Any:
    name = dtype_name(node.int("to", 0))
    return (
        inputs[0].astype(name)
        if name.rstrip("0123456789") in ("float", "int", "uint", "bool")
        else None
    )


def _slice(node: Node, inputs: list[Any]) -> Any:
    data = inputs[0]
    if len(inputs) == 1:
        starts, ends = list(node.ints("starts", ())), list(node.ints("ends", ()))
        axes, steps = list(node.ints("axes", ())), []
    else:
        given = [item.tolist() if item is not None else [] for item in inputs[1:]]
        starts, ends, axes, steps = (*given, [], [])[:4]
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(index)]


def _axes(node: Node, inputs: list[Any]) -> tuple[int, ...]:
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(inputs[1].tolist())
    return node.ints("axes", ())


def _unsqueeze(node: Node, inputs: list[Any]) -> Any:
    import numpy as np

    return np.expand_dims(inputs[0], _axes(node, inputs))


def _squeeze(node: Node, inputs: list[Any]) -> Any:
    return inputs[0].squeeze(_axes(node, inputs) or None)


def _reshape(node: Node, inputs: list[Any]) -> Any:
    data, target = inputs[0], inputs[1].tolist()
    if not node.int("allowzero", 0):
        target = [data.shape[i] if dim == 0 else dim for i, dim in enumerate(target)]
    return data.reshape(target)


def _gather(node: Node, inputs: list[Any]) -> Any:
    return inputs[0].take(inputs[1], axis=node.int("axis", 0))


def _concat(node: Node, inputs: list[Any]) -> Any:
    import numpy as np

    return np.concatenate(inputs, axis=node.int("axis", 0))


def _filled(node: Node, inputs: list[Any]) -> Any:
    import numpy as np
    from onnx import numpy_helper

    shape = inputs[0].tolist()
    if any(dim < 0 for dim in shape):
        return None
    value = node.attributes.get("value")
    fill = numpy_helper.to_array(value) if value is not None else np.zeros(1, np.float32)
    return np.full(shape, fill.reshape(-1)[0], fill.dtype)


def _range(_: Node, inputs: list[Any]) -> Any:
    import numpy as np

    start, limit, delta = (item.item() for item in inputs)
    if not delta or abs((limit - start) / delta) > SMALL:
        return None
    return np.arange(start, limit, delta).astype(inputs[0].dtype)


def _divide(_: Node, inputs: list[Any]) -> Any:
    left, right = inputs
    if left.dtype.kind not in "iu":
        return left / right
    if not right.all():
        return None
    return (left - left % right * (left % right != 0)) // right if left.min() >= 0 else None


_RULES: dict[str, Callable[[Node, list[Any]], Any]] = {
    "Constant": _constant,
    "Identity": lambda _, x: x[0],
    "Cast": _cast,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Gather": _gather,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Add": lambda _, x: x[0] + x[1],
    "Sub": lambda _, x: x[0] - x[1],
    "Mul": lambda _, x: x[0] * x[1],
    "Div": _divide,
    "Neg": lambda _, x: -x[0],
    "Equal": lambda _, x: x[0] == x[1],
    "Where": lambda _, x: _where(x),
    "Transpose": lambda n, x: x[0].transpose(n.attributes.get("perm")),
}


def _where(inputs: list[Any]) -> Any:
    import numpy as np

    return np.where(*inputs)
