"""What the preprocessing kernel is told: the input tensor, the frame's memory, the colour matrix. Pure."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetrt.errors import ConfigError, InferenceError, ModelError

if TYPE_CHECKING:
    from edgetrt.config import PreprocessConfig
    from edgetrt.geometry import Fit
    from edgetrt.types import PixelFormat, Shape, TensorSpec, YuvColor


@dataclass(frozen=True)
class YuvMatrix:
    """How YUV becomes RGB: `(Y - y_offset) * y_gain`, and shares of U-128 and V-128."""

    y_offset: float
    y_gain: float
    v_red: float
    u_green: float
    v_green: float
    u_blue: float


def yuv_matrix(red: float, blue: float, *, full_range: bool = False) -> YuvMatrix:
    """Derive a matrix from the luma shares of red and blue (ITU-R BT.601-7 2.5, BT.709-6 3, BT.2020-2 4)."""
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    green = 1 - red - blue
    v_red, u_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    return YuvMatrix(
        0.0 if full_range else 16.0,
        luma,
        v_red,
        -u_blue * blue / green,
        -v_red * red / green,
        u_blue,
    )


BT601 = yuv_matrix(0.299, 0.114)
BT709 = yuv_matrix(0.2126, 0.0722)
MATRICES: dict[YuvColor, YuvMatrix] = {
    "bt601": BT601,
    "bt601-full": yuv_matrix(0.299, 0.114, full_range=True),
    "bt709": BT709,
    "bt709-full": yuv_matrix(0.2126, 0.0722, full_range=True),
    "bt2020": yuv_matrix(0.2627, 0.0593),
}

_CHANNELS: dict[PixelFormat, int] = {"rgb": 3, "bgr": 3, "rgbx": 4, "bgrx": 4, "yuyv": 2}


class _Params(ctypes.Structure):
    """`struct Params` of kernels/preprocess.cu, field by field."""

    _fields_ = (
        ("plane", ctypes.c_uint64),
        ("chroma", ctypes.c_uint64),
        ("out", ctypes.c_uint64),
        ("frame_bytes", ctypes.c_uint64),
        ("tensor_elements", ctypes.c_uint64),
        *((name, ctypes.c_int) for name in ("pitch", "chroma_pitch", "odd_x", "odd_y")),
        *((name, ctypes.c_int) for name in ("take_width", "take_height")),
        *((name, ctypes.c_int) for name in ("put_left", "put_top", "put_width", "put_height")),
        *((name, ctypes.c_int) for name in ("width", "height", "pixel_stride", "row_stride")),
        ("channel", ctypes.c_int * 3),
        ("step_x", ctypes.c_float),
        ("step_y", ctypes.c_float),
        ("gain", ctypes.c_float * 3),
        ("bias", ctypes.c_float * 3),
        ("pad", ctypes.c_float),
        ("y_offset", ctypes.c_float),
        ("y_gain", ctypes.c_float),
        *((name, ctypes.c_float) for name in ("v_red", "u_green", "v_green", "u_blue")),
    )


@dataclass(frozen=True)
class Target:
    """The input tensor as the kernel writes it.

    Attributes:
        pointer: device address of its first element.
        planar: channels before rows.
        gain, bias: `pixel * gain + bias`, for red, green and blue.
    """

    pointer: int
    dtype: str
    batch: int
    width: int
    height: int
    planar: bool
    blue_first: bool
    gain: tuple[float, float, float]
    bias: tuple[float, float, float]
    pad: int


def target(
    spec: TensorSpec, pointer: int, config: PreprocessConfig, quantum: float = 1.0
) -> Target:
    """Describe an input tensor of images.

    Args:
        spec: static, three channels; float32, float16, int8 or uint8. uint8 takes pixels as they are.
        pointer: device address.
        config: how to fit and scale.
        quantum: of an int8 input: its value is the stored number times this.

    Raises:
        ModelError: the tensor is not one of images.
        ConfigError: `config` contradicts it.
    """
    if spec.dtype not in ("float32", "float16", "int8", "uint8") or len(spec.shape) != 4:
        raise ModelError(
            f"input {spec.name!r} is {spec.dtype} {list(spec.shape)}: expected float32, float16, int8"
            " or uint8 of shape [N, 3, H, W] or [N, H, W, 3]",
            "Preprocess on the CPU, or export the network with an image input.",
        )
    planar = spec.shape[1] == 3 if config.layout == "auto" else config.layout == "nchw"
    batch, *rest = spec.shape
    channels, height, width = rest if planar else (rest[2], rest[0], rest[1])
    if channels != 3 or min(spec.shape) < 1:
        raise ConfigError(
            f"input {spec.name!r} of shape {list(spec.shape)} has no three channels where layout"
            f" {config.layout} says",
            "Leave `preprocess.layout` out, and give dynamic inputs a size.",
        )
    gain, bias = [1.0] * 3, [0.0] * 3
    if spec.dtype != "uint8":
        gain = [config.scale / s / quantum for s in config.std]
        bias = [-m / s / quantum for m, s in zip(config.mean, config.std, strict=True)]
    blue_first = config.color == "bgr"
    turn = -1 if blue_first else 1
    return Target(
        pointer,
        spec.dtype,
        batch,
        width,
        height,
        planar,
        blue_first,
        _three(gain[::turn]),
        _three(bias[::turn]),
        config.pad,
    )


def _three(values: list[float]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third


def frame_shape(size: tuple[int, int], pixel_format: PixelFormat) -> Shape:
    """Shape of a frame's array for a size (w, h).

    Raises:
        InferenceError: YUV formats need even widths, NV12 even heights too.
    """
    width, height = size
    if (pixel_format in ("nv12", "yuyv") and width % 2) or (pixel_format == "nv12" and height % 2):
        raise InferenceError(
            f"a {pixel_format} frame of {width}×{height}: expected even sizes",
            "Let the source scale or crop to an even size.",
        )
    if pixel_format == "nv12":
        return (height * 3 // 2, width)
    if pixel_format == "gray":
        return (height, width)
    return (height, width, _CHANNELS[pixel_format])


@dataclass(frozen=True)
class Planes:
    """Where frames lie on the device: addresses, and bytes from row to row and from frame to frame.

    `chroma` is NV12's second plane.
    """

    plane: int
    pitch: int
    chroma: int = 0
    chroma_pitch: int = 0
    frame_bytes: int = 0


def packed(pointer: int, size: tuple[int, int], pixel_format: PixelFormat) -> Planes:
    """Say where frames lie that follow each other at `pointer` without a gap."""
    width, height = size
    row, frame_bytes = width * _bytes(pixel_format), int(np.prod(frame_shape(size, pixel_format)))
    return Planes(pointer, row, pointer + height * width, width, frame_bytes)


def arguments(
    pointer: int,
    size: tuple[int, int],
    pixel_format: PixelFormat,
    placed: Fit,
    into: Target,
    matrix: YuvMatrix = BT601,
) -> bytes:
    """Fill the kernel's parameters for frames that lie one after the other at `pointer`."""
    return parameters(packed(pointer, size, pixel_format), pixel_format, placed, into, matrix)


def parameters(
    planes: Planes, pixel_format: PixelFormat, placed: Fit, into: Target, matrix: YuvMatrix
) -> bytes:
    """Fill the kernel's parameters."""
    take, put = placed.take, placed.put
    left = take.left & ~1 if pixel_format == "yuyv" else take.left
    plane = planes.plane + take.top * planes.pitch + left * _bytes(pixel_format)
    chroma = planes.chroma + take.top // 2 * planes.chroma_pitch + (take.left & ~1)
    column = into.width * into.height if into.planar else 1
    channels = (2 * column, column, 0) if into.blue_first else (0, column, 2 * column)
    pixel_stride = 1 if into.planar else 3
    return bytes(
        _Params(
            plane=plane,
            chroma=chroma,
            out=into.pointer,
            frame_bytes=planes.frame_bytes,
            tensor_elements=3 * into.width * into.height,
            pitch=planes.pitch,
            chroma_pitch=planes.chroma_pitch,
            odd_x=take.left & 1,
            odd_y=take.top & 1,
            take_width=take.width,
            take_height=take.height,
            put_left=put.left,
            put_top=put.top,
            put_width=put.width,
            put_height=put.height,
            width=into.width,
            height=into.height,
            pixel_stride=pixel_stride,
            row_stride=into.width * pixel_stride,
            channel=channels,
            step_x=take.width / put.width,
            step_y=take.height / put.height,
            gain=into.gain,
            bias=into.bias,
            pad=into.pad,
            y_offset=matrix.y_offset,
            y_gain=matrix.y_gain,
            v_red=matrix.v_red,
            u_green=matrix.u_green,
            v_green=matrix.v_green,
            u_blue=matrix.u_blue,
        )
    )


def _bytes(pixel_format: PixelFormat) -> int:
    """Bytes of a pixel of the first plane."""
    return _CHANNELS.get(pixel_format, 1)
