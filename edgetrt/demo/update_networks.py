"""Small detectors for the demo of updates: alike, different, and slow for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]

SIZE, CELLS = 64, 8
_WIDE, _DEEP = 48, 40


def detector(path: Path, seed: int, slow: bool = False) -> None:
    """Write a one-class detector in YOLOv8's layout: images 1×3×64×64 -> output0 1×5×64.

    Its score follows the brightness around each of 8×8 cells.

    Args:
        path: of the ONNX file.
        seed: networks of different seeds answer differently.
        slow: add much work whose outcome counts for nothing: the same answers, later.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = _weights(seed)
    nodes = _nodes()
    if slow:
        more, waste = _waste()
        nodes, weights = [*nodes, *more], {**weights, **waste}
    else:
        nodes.append(helper.make_node("Identity", ["found"], ["output0"], "out"))
    ends = {"images": [1, 3, SIZE, SIZE], "output0": [1, 5, CELLS * CELLS]}
    values = {k: helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in ends.items()}
    graph = helper.make_graph(
        nodes,
        "bright",
        [values["images"]],
        [values["output0"]],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    names = {"task": "detect", "names": "{0: 'bright'}", "imgsz": f"[{SIZE}, {SIZE}]"}
    helper.set_model_props(model, {**names, "stride": str(SIZE // CELLS)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def answer(path: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a network answers, by ONNX Runtime in FP32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["output0"], {"images": image})[0]
    return found


def picture(seed: int) -> NDArray[np.float32]:
    """An input: dark above, bright below, with noise."""
    import numpy as np

    random = np.random.default_rng(seed)
    image = random.uniform(0.8, 1.0, (1, 3, SIZE, SIZE)).astype(np.float32)
    image[:, :, : SIZE // 2] *= 0.1
    return image


def _weights(seed: int) -> Weights:
    import numpy as np

    random = np.random.default_rng(seed)
    stride = SIZE // CELLS
    centre = (np.arange(CELLS, dtype=np.float32) + 0.5) * stride
    x, y = np.meshgrid(centre, centre)
    boxes = np.stack([x, y, np.full_like(x, 20.0), np.full_like(x, 20.0)])[None]
    blur = np.full((4, 3, stride, stride), 1 / (3 * stride * stride))
    made = {
        "w1": blur * (1 + 0.1 * random.standard_normal((4, 1, 1, 1))),
        "w2": random.standard_normal((4, 4, 1, 1)) * 0.1 + np.eye(4)[:, :, None, None],
        "w3": np.full((1, 4, 1, 1), 6.0),
        "b3": np.array([-12.0]),
        "w4": random.standard_normal((4, 4, 1, 1)) * 0.5,
        "grid": boxes,
    }
    floats = {name: value.astype(np.float32) for name, value in made.items()}
    return {**floats, "shape": np.array([1, 5, CELLS * CELLS], np.int64)}


def _nodes() -> list[Any]:
    from onnx import helper

    stride = SIZE // CELLS
    return [
        helper.make_node("Conv", ["images", "w1"], ["c1"], "conv1", strides=[stride, stride]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["logit"], "score_head"),
        helper.make_node("Conv", ["r2", "w4"], ["offset"], "box_head"),
        helper.make_node("Add", ["offset", "grid"], ["boxes"], "to_pixels"),
        helper.make_node("Sigmoid", ["logit"], ["score"], "to_score"),
        helper.make_node("Concat", ["boxes", "score"], ["both"], "join", axis=1),
        helper.make_node("Reshape", ["both", "shape"], ["found"], "flat"),
    ]


def _waste() -> tuple[list[Any], Weights]:
    """Convolutions over the whole picture, times zero; no optimiser may drop them, for 0 * inf is not 0."""
    import numpy as np
    from onnx import helper

    random = np.random.default_rng(0)
    scale = 1 / np.sqrt(9 * _WIDE)
    wide = (random.standard_normal((_WIDE, _WIDE, 3, 3)) * scale).astype(np.float32)
    enter = (random.standard_normal((_WIDE, 3, 1, 1)) * 0.1).astype(np.float32)
    nodes = [helper.make_node("Conv", ["images", "w_enter"], ["t0"], "waste_in")]
    for n in range(_DEEP):
        nodes += [
            helper.make_node(
                "Conv", [f"t{n}", "w_wide"], [f"u{n}"], f"waste{n}", pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", [f"u{n}"], [f"t{n + 1}"], f"waste_relu{n}"),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"t{_DEEP}"], ["mean"], "waste_mean", keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"], "waste_out"),
        helper.make_node("Add", ["found", "nothing"], ["output0"], "out"),
    ]
    return nodes, {"w_wide": wide, "w_enter": enter, "zero": np.zeros((), np.float32)}
