"""Small videos, made by the tests that read them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(n: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A grey picture whose brightness tells its number, with a bright mark that moves."""
    width, height = size
    rgb = np.full((height, width, 3), 40 + (n * 8) % 160, np.uint8)
    x = (n * 3) % (width - 8)
    rgb[8:16, x : x + 8] = 250
    return rgb


def make_video(
    path: Path,
    frames: int = 10,
    size: tuple[int, int] = (64, 48),
    rate_hz: int = 10,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    title: str = "",
) -> Path:
    with av.open(str(path), "w") as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate_hz, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(n, size), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_sound(path: Path) -> Path:
    """A file with an audio stream alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def access_units(frames: int = 20, size: tuple[int, int] = (64, 48), every: int = 5) -> list[bytes]:
    """H.264 pictures with start codes; each `every`th is a key frame with its parameter sets."""
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height = size
    codec.pix_fmt = "yuv420p"
    codec.time_base = Fraction(1, 25)
    codec.options = {"tune": "zerolatency", "preset": "ultrafast", "g": str(every), "bf": "0"}
    units: list[bytes] = []
    for n in range(frames):
        frame = av.VideoFrame.from_ndarray(picture(n, size), format="rgb24")
        frame.pts = n
        units += [bytes(packet) for packet in codec.encode(frame)]
    return units + [bytes(packet) for packet in codec.encode(None)]
