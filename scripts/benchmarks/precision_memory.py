#!/usr/bin/env python3
"""Memory of the precision passes on a large network.

Makes a convolutional network of `--megabytes` of random weights, runs each pass in a process of its
own and prints by how much the process grew at its peak, beyond what it held after importing the
libraries and running the same pass on a network of 0.1 MB. Needs Linux.

    scripts/benchmarks/precision_memory.py --megabytes 100
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edgetrt.model.activations import Activation, measure  # noqa: E402 - after the path is set
from edgetrt.model.calibration import translate  # noqa: E402
from edgetrt.model.precision import cast_half  # noqa: E402
from edgetrt.model.quantize import Quantizer  # noqa: E402
from edgetrt.model.storage import read_skeleton  # noqa: E402
from edgetrt.model.wiring import Wiring  # noqa: E402

PASSES = ("measure", "fp16", "int8", "calibration")
CHANNELS, SIZE = 512, 16


def make(path: Path, megabytes: float) -> None:
    """A chain of 3x3 convolutions with ReLUs, 9.4 MB of weights each (or one small one)."""
    rng = np.random.default_rng(0)
    channels = CHANNELS if megabytes > 1 else 48
    count = max(1, round(megabytes * 1e6 / (channels * channels * 9 * 4)))
    nodes, weights, last = [], [], "x"
    for i in range(count):
        kernel = rng.standard_normal((channels, channels, 3, 3), np.float32)
        weights.append(numpy_helper.from_array(kernel / np.float32(np.sqrt(channels * 9)), f"w{i}"))
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"),
        ]
        last = f"r{i}"
    shape = (1, channels, SIZE, SIZE)
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", last)]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def work(which: str, path: Path) -> None:
    """One pass; what it needs from the passes before is made with the network of 0.1 MB, or read."""
    skeleton = read_skeleton(path)
    channels = skeleton.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    frames = [
        {"x": np.random.default_rng(i).random((1, channels, SIZE, SIZE), np.float32)}
        for i in (1, 2)
    ]
    if which == "measure":
        measure(skeleton, frames, histogram=True)
        return
    ranges = _ranges(skeleton)
    if which == "fp16":
        cast_half(path, path.with_suffix(".fp16.onnx"), ranges)
    elif which == "int8":
        Quantizer(path, ranges).write(path.with_suffix(".int8.onnx"))
    else:
        translate(path.with_suffix(".int8.onnx"), path.with_suffix(".plain.onnx"))


def _ranges(skeleton: onnx.ModelProto) -> dict:
    """Made-up ranges: what measuring costs is measured by itself."""
    out = {}
    for name in Wiring(skeleton).activations():
        out[name] = Activation()
        out[name].add(np.array([0.0, 4.0], np.float32), histogram=False)
    return out


def peak_bytes() -> int:
    """High-water mark of resident memory since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmHWM in /proc/self/status: not Linux?")


def child(which: str, folder: Path) -> None:
    """Warm up on the small network, reset the mark, run on the large one."""
    work(which, folder / "small.onnx")
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5")
    work(which, folder / "large.onnx")
    print(json.dumps({"before": before, "peak": peak_bytes()}))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    """Parse arguments, run the passes, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "small.onnx", 0.1)
        make(Path(folder) / "large.onnx", args.megabytes)
        size = (Path(folder) / "large.onnx").stat().st_size
        for which in PASSES:
            done = subprocess.run(
                [sys.executable, __file__, "--child", which, folder],
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout)
            growth = found["peak"] - found["before"]
            rows[which] = {"megabytes": growth / 1e6, "times_the_model": growth / size}
    if args.json:
        print(json.dumps({"model_bytes": size, "passes": rows}))
        return
    print(f"network of {size / 1e6:.1f} MB")
    for which, row in rows.items():
        print(f"{which:12}{row['megabytes']:8.1f} MB  {row['times_the_model']:5.2f} x the model")


if __name__ == "__main__":
    main()
