"""The fused pass as a small ONNX network with a uint8 input, for devices without a CUDA compiler.

The builder makes an engine of it as of any network; the arithmetic is that of kernels/preprocess.cu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgetrt.errors import ModelError
from edgetrt.geometry import fit
from edgetrt.gpu.layout import BT601, YuvMatrix, frame_shape, target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrt.config import PreprocessConfig
    from edgetrt.geometry import Fit
    from edgetrt.gpu.layout import Target
    from edgetrt.types import PixelFormat, TensorSpec

OPSET = 17


def preprocess_network(
    size: tuple[int, int],
    pixel_format: PixelFormat,
    spec: TensorSpec,
    config: PreprocessConfig,
    matrix: YuvMatrix = BT601,
) -> Any:
    """Make the network.

    Args:
        size: of the frames, (w, h).
        pixel_format: of the frames.
        spec: the input tensor that it fills, one image, float32 or float16; its name is the output's.
        config: how to fit and scale.
        matrix: of YUV formats.

    Returns:
        An `onnx.ModelProto` from `frame` (uint8, as `Frame.data`) to the tensor.

    Raises:
        ModelError: the tensor is not one of images.
        InferenceError: a size that the format cannot have.
    """
    from onnx import TensorProto, helper

    if spec.dtype not in ("float32", "float16"):
        raise ModelError(
            f"input {spec.name!r} is {spec.dtype}: a preprocessing engine writes float32 or float16",
            "Preprocess on the CPU, or install a CUDA compiler for the fused kernel.",
        )
    into = target(spec, 0, config)
    placed = fit(size, (into.width, into.height), config.resize)
    graph = _Graph()
    rgb = _to_rgb(graph, size, pixel_format, matrix)
    canvas = _place(graph, rgb, placed, into)
    scaled = _scale(graph, canvas, into)
    graph.add(
        "Cast", [scaled], into=spec.name, to=helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    )
    frame = helper.make_tensor_value_info(
        "frame", TensorProto.UINT8, frame_shape(size, pixel_format)
    )
    answer = helper.make_tensor_value_info(
        spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "preprocess", [frame], [answer], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    model.ir_version = 8
    return model


class _Graph:
    """Nodes and constants as they are added; each node has one output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[Any] | list[int]) -> str:
        """Add a constant; a list is one of int64."""
        from onnx import numpy_helper

        array = np.asarray(value, None if isinstance(value, np.ndarray) else np.int64)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, names: list[str], into: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        from onnx import helper

        name = into or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def rows(self, name: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """Cut a range out of an axis."""
        bounds = [self.constant([v]) for v in (start, end, axis, step)]
        return self.add("Slice", [name, *bounds])

    def shaped(self, name: str, shape: list[int]) -> str:
        """Reshape."""
        return self.add("Reshape", [name, self.constant(shape)])


def _to_rgb(
    graph: _Graph, size: tuple[int, int], pixel_format: PixelFormat, matrix: YuvMatrix
) -> str:
    """Whole-pixel RGB of the frame, [1, 3, h, w] float32."""
    width, height = size
    frame = graph.add("Cast", ["frame"], to=1)
    if pixel_format in ("nv12", "yuyv"):
        yuv = _planes(graph, frame, size, pixel_format)
        offset = np.array([matrix.y_offset, 128, 128], np.float32).reshape(1, 3, 1, 1)
        shares = np.array(
            [
                [matrix.y_gain, 0, matrix.v_red],
                [matrix.y_gain, matrix.u_green, matrix.v_green],
                [matrix.y_gain, matrix.u_blue, 0],
            ],
            np.float32,
        ).reshape(3, 3, 1, 1)
        centred = graph.add("Sub", [yuv, graph.constant(offset)])
        mixed = graph.add("Conv", [centred, graph.constant(shares)], kernel_shape=[1, 1])
        limits = [graph.constant(np.array(v, np.float32)) for v in (0, 255)]
        return graph.add("Round", [graph.add("Clip", [mixed, *limits])])
    if pixel_format == "gray":
        whole = graph.shaped(frame, [1, 1, height, width])
        return graph.add("Concat", [whole] * 3, axis=1)
    planes = graph.add("Transpose", [frame], perm=[2, 0, 1])
    order = [2, 1, 0] if pixel_format in ("bgr", "bgrx") else [0, 1, 2]
    picked = graph.add("Gather", [planes, graph.constant(order)], axis=0)
    return graph.shaped(picked, [1, 3, height, width])


def _planes(graph: _Graph, frame: str, size: tuple[int, int], pixel_format: PixelFormat) -> str:
    """Y, U and V of every pixel, [1, 3, h, w]; chroma repeated."""
    width, height = size
    if pixel_format == "nv12":
        luma = graph.shaped(graph.rows(frame, 0, 0, height), [1, 1, height, width])
        pairs = graph.rows(frame, 0, height, height * 3 // 2)
        apart = graph.shaped(pairs, [height // 2, 1, width // 2, 1, 2])
        wide = graph.add("Expand", [apart, graph.constant([height // 2, 2, width // 2, 2, 2])])
    else:
        luma = graph.shaped(graph.rows(frame, 2, 0, 1), [1, 1, height, width])
        chroma = graph.rows(frame, 2, 1, 2)  # U of even pixels, V of odd ones
        apart = graph.shaped(chroma, [height, 1, width // 2, 1, 2])
        wide = graph.add("Expand", [apart, graph.constant([height, 1, width // 2, 2, 2])])
    both = graph.shaped(wide, [height, width, 2])
    turned = graph.shaped(graph.add("Transpose", [both], perm=[2, 0, 1]), [1, 2, height, width])
    return graph.add("Concat", [luma, turned], axis=1)


def _place(graph: _Graph, rgb: str, placed: Fit, into: Target) -> str:
    """Cut, resize and pad to the tensor's size."""
    take, put = placed.take, placed.put
    part = graph.rows(rgb, 2, take.top, take.top + take.height)
    part = graph.rows(part, 3, take.left, take.left + take.width)
    sizes = graph.constant([1, 3, put.height, put.width])
    resized = graph.add(
        "Resize",
        [part, "", "", sizes],
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    right, bottom = into.width - put.left - put.width, into.height - put.top - put.height
    border = graph.constant([0, 0, put.top, put.left, 0, 0, bottom, right])
    grey = graph.constant(np.array(into.pad, np.float32))
    return graph.add("Pad", [resized, border, grey])


def _scale(graph: _Graph, canvas: str, into: Target) -> str:
    """Scale, order and lay out as the tensor wants it."""
    gain, bias = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (into.gain, into.bias))
    scaled = graph.add("Mul", [canvas, graph.constant(gain)])
    scaled = graph.add("Add", [scaled, graph.constant(bias)])
    if into.blue_first:
        scaled = graph.add("Gather", [scaled, graph.constant([2, 1, 0])], axis=1)
    return scaled if into.planar else graph.add("Transpose", [scaled], perm=[0, 2, 3, 1])
