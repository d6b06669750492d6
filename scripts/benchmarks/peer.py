"""Ultralytics' predictor beside us: its own environment, a worker process, a line protocol.

Its package and its dependencies stay out of edgetrt's environment. `torchvision` is asked for by name
only; what the predictor uses of it, `ops.nms`, is given by a stand-in of a few lines, because its wheels
exist for some builds of torch only. It suppresses with OpenCV, in native code as the original does.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks.footage import Picture, cache

TORCH, ULTRALYTICS = "torch==2.13.0", "ultralytics==8.4.190"
# Only what predicting with an ONNX file imports.
NEEDS = "numpy opencv-python-headless pillow pyyaml requests psutil matplotlib onnxruntime polars"

_STAND_IN = '''
"""Non-maximum suppression with torchvision's signature."""
import cv2


def nms(boxes, scores, iou_threshold):
    import torch
    corners = boxes.cpu().numpy()
    sized = corners.copy()
    sized[:, 2:] -= sized[:, :2]
    kept = cv2.dnn.NMSBoxes(sized, scores.cpu().numpy(), 0.0, iou_threshold)
    return torch.as_tensor(kept, dtype=torch.int64)
'''


@dataclass(frozen=True)
class Block:
    """Milliseconds per frame of one block."""

    total: list[float]
    inference: list[float]
    boxes: list[int]


def environment() -> Path:
    """Make the peer's environment when it is not there; returns its interpreter.

    Raises:
        subprocess.CalledProcessError: the package index is not reachable.
    """
    home = cache() / "bench-venv"
    python, stamp = home / "bin" / "python", home / "peer.json"
    wanted = json.dumps([TORCH, ULTRALYTICS, NEEDS])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(home, clear=True, with_pip=True)
    for packages in ([TORCH], NEEDS.split(), ["--no-deps", ULTRALYTICS]):
        # Isolated: our PYTHONPATH would make pip weigh edgetrt's own needs.
        command = [str(python), "-I", "-m", "pip", "install", "-qqq", "--no-input", *packages]
        subprocess.run(command, check=True)
    (site,) = home.glob("lib/python*/site-packages")
    _stand_in(site)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _stand_in(site: Path) -> None:
    version = "0.0.0"
    package = site / "torchvision"
    package.mkdir(exist_ok=True)
    text = f'from torchvision import ops\n\n__version__ = "{version}"\n'
    (package / "__init__.py").write_text(text, encoding="utf-8")
    (package / "ops.py").write_text(_STAND_IN, encoding="utf-8")
    info = site / f"torchvision-{version}.dist-info"
    info.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: torchvision\nVersion: {version}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")


class Peer:
    """A running worker; a context manager that ends it."""

    def __init__(self, model: Path, pictures: list[Picture], threads: int) -> None:
        python = environment()
        self._folder = tempfile.TemporaryDirectory()
        frames = Path(self._folder.name) / "frames.npy"
        np.save(frames, np.stack(pictures))
        worker = Path(__file__).with_name("peer_worker.py")
        settings = {
            "YOLO_CONFIG_DIR": self._folder.name,
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "OMP_NUM_THREADS": str(threads),
        }
        self._process = subprocess.Popen(
            [str(python), "-I", str(worker), str(model), str(frames), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **settings},
        )
        self.hello = self._answer()

    def block(self, begin: int, count: int) -> Block:
        """Let it predict `count` frames from number `begin` on."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(json.dumps({"begin": begin, "count": count}) + "\n")
        self._process.stdin.flush()
        return Block(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            if line.startswith("{"):  # the library may greet first
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"the peer's worker ended with code {self._process.wait()}")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.communicate()
        self._folder.cleanup()
