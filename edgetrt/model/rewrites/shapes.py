"""Open dimensions fixed, and resizing by constant scales."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgetrt.model.dla_layers import resize_sampling
from edgetrt.model.graph import Graph, shape_of, tensor_spec
from edgetrt.model.metadata import read_metadata
from edgetrt.model.rewrites.edit import attributes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from edgetrt.model.graph import Node
    from edgetrt.model.rewrites.edit import Edit
    from edgetrt.types import Shape

_IMAGE_RANK = 4


def static_shapes(graph: Graph, sizes: Mapping[str, Shape] | None = None, batch: int = 1) -> Graph:
    """Fix the inputs' dimensions.

    Args:
        graph: with open dimensions.
        sizes: whole shapes by input name, where the caller knows them.
        batch: what an open first dimension becomes.

    Height and width that stay open are taken from the exporter's `imgsz`. An input that cannot be
    fixed altogether stays as it is.
    """
    props = {item.key: item.value for item in graph.shell.metadata_props}
    size = read_metadata(props).image_size
    inputs = tuple(
        _fixed(value, (sizes or {}).get(value.name), batch, size) for value in graph.inputs
    )
    if all(new is old for new, old in zip(inputs, graph.inputs, strict=True)):
        return graph
    # What was declared for inside and outputs may be open or stale; inference fills it in again.
    return replace(graph, inputs=inputs, outputs=tuple(map(_open, graph.outputs)), declared=())


def _fixed(
    value: onnx.ValueInfoProto, wanted: Shape | None, batch: int, size: tuple[int, int] | None
) -> onnx.ValueInfoProto:
    import onnx

    shape = shape_of(value)
    if shape is None or min(shape, default=1) >= 0:
        return value
    guess = [batch if index == 0 and dim < 0 else dim for index, dim in enumerate(shape)]
    if size is not None and len(shape) == _IMAGE_RANK and shape[1] in (1, 3, 4):
        guess[2], guess[3] = (
            size[1] if guess[2] < 0 else guess[2],
            size[0] if guess[3] < 0 else guess[3],
        )
    fixed = tuple(guess) if wanted is None else wanted
    if min(fixed) < 0 or len(fixed) != len(shape):
        return value
    kind = value.type.tensor_type.elem_type
    return onnx.helper.make_tensor_value_info(value.name, kind, fixed)


def _open(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """An output without its shape; of other types as it is."""
    import onnx

    if not value.type.HasField("tensor_type"):
        return value
    kind = value.type.tensor_type.elem_type
    return onnx.helper.make_tensor_value_info(value.name, kind, None)


def open_inputs(graph: Graph) -> tuple[str, ...]:
    """Names of inputs with an open dimension."""
    return tuple(
        value.name for value in graph.inputs if min(tensor_spec(value).shape, default=1) < 0
    )


def resize_scales(edit: Edit, node: Node) -> bool:
    """A size as constant whole-number scales; PyTorch's half-pixel where it is the plain one."""
    source, result = edit.shape(node.input(0)), edit.shape(node.outputs[0])
    if source is None or result is None or len(source) != _IMAGE_RANK or edit.graph.opset < 11:
        return False
    if any(new % old for new, old in zip(result, source, strict=True)):
        return False
    if node.int("antialias", 0) or node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    attributes = dict(attributes_of(node, "axes"))
    if "pytorch_half_pixel" in resize_sampling(node) and min(result[2:]) > 1:
        attributes["coordinate_transformation_mode"] = "half_pixel"
    scales = np.asarray([new // old for new, old in zip(result, source, strict=True)], np.float32)
    same = edit.shapes.floats(node.input(2)) == tuple(scales.tolist())
    if same and attributes == dict(node.attributes):
        return False
    inputs = (node.input(0), "", edit.constant(node.name, scales))
    edit.emit("Resize", inputs, node.name, outputs=node.outputs, **attributes)
    return True
