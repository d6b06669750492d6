"""What the tests of a deployment share: a tiny detector, its frames, and a machine of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIZE = 64


def detector(path: Path, seed: int = 0, cells: int = 8) -> Path:
    """A one-class detector as YOLOv8 exports them: `[1, 5, cells²]`, boxes in pixels, a score each.

    It "finds" bright cells: the score follows the mean brightness around a cell.
    """
    random = np.random.default_rng(seed)
    stride, anchors = SIZE // cells, cells * cells
    centre = (np.arange(cells, dtype=np.float32) + 0.5) * stride
    x, y = np.meshgrid(centre, centre)
    boxes = np.stack([x, y, np.full_like(x, 20.0), np.full_like(x, 20.0)])[None]
    blur = np.full((4, 3, stride, stride), 1 / (3 * stride * stride), np.float32)
    weights = {
        "w1": blur * (1 + 0.1 * random.standard_normal((4, 1, 1, 1))).astype(np.float32),
        "w2": (random.standard_normal((4, 4, 1, 1)) * 0.1 + np.eye(4)[:, :, None, None]).astype(
            "f4"
        ),
        "w3": np.full((1, 4, 1, 1), 6.0, np.float32),
        "b3": np.array([-12.0], np.float32),
        "w4": (random.standard_normal((4, 4, 1, 1)) * 0.5).astype(np.float32),
        "grid": boxes.astype(np.float32),
        "shape": np.array([1, 5, anchors], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["c1"], "conv1", strides=[stride, stride]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["logit"], "score_head"),
        helper.make_node("Conv", ["r2", "w4"], ["offset"], "box_head"),
        helper.make_node("Add", ["offset", "grid"], ["boxes"], "to_pixels"),
        helper.make_node("Sigmoid", ["logit"], ["score"], "to_score"),
        helper.make_node("Concat", ["boxes", "score"], ["both"], "join", axis=1),
        helper.make_node("Reshape", ["both", "shape"], ["output0"], "flat"),
    ]
    ends = {"images": [1, 3, SIZE, SIZE], "output0": [1, 5, anchors]}
    values = {k: helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in ends.items()}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [values["images"]],
        [values["output0"]],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(
        model,
        {"task": "detect", "names": "{0: 'thing'}", "imgsz": f"[{SIZE}, {SIZE}]", "stride": "8"},
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def pictures(folder: Path, count: int = 6) -> Path:
    """Dark pictures, each with a few bright squares somewhere."""
    random = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = random.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        for _ in range(3):
            x, y = random.integers(0, SIZE - 20, 2)
            picture[y : y + 20, x : x + 20] = random.integers(190, 255)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


def places(folder: Path) -> dict[str, str]:
    """Environment of a machine of one's own: cache, state and sockets under a short folder."""
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    return {
        "EDGETRT_CACHE": str(folder / "engines"),
        "EDGETRT_STATE": str(folder / "state"),
        "RUNTIME_DIRECTORY": str(run),
        "XDG_CACHE_HOME": str(folder / "xdg"),
        "CACHE_DIRECTORY": str(folder / "xdg"),
    }


@contextmanager
def machine(folder: Path) -> Iterator[Path]:
    """The same for code that runs in this process."""
    before = dict(os.environ)
    os.environ.update(places(folder))
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
