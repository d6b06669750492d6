"""What the tests of building and serving a release share: a tiny one, unpacked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edgetrt.backends.onnxruntime import OnnxRuntimeBackend
from edgetrt.engine.accuracy import answer
from edgetrt.update import archive
from edgetrt.update.layout import Layout
from tests.deploying import SIZE, detector


def write(
    folder: Path,
    seed: int = 0,
    bands: str = "{accuracy_min: 0.9, prove_s: 0}",
    source: str = "synthetic:64x64?rate_hz=100",
    wrong: float = 0.0,
    name: str = "tiny",
) -> Path:
    """A detector with one golden input, whose expected output is `wrong` by so much."""
    folder.mkdir(parents=True)
    network = detector(folder / "tiny.onnx", seed)
    random = np.random.default_rng(1)
    image = random.uniform(0.8, 1.0, (1, 3, SIZE, SIZE)).astype(np.float32)
    image[:, :, : SIZE // 2] *= 0.1
    session = OnnxRuntimeBackend().load(network, 1)
    expected: dict[str, Any] = answer(session, {"images": image})
    session.close()
    np.savez(folder / "in.npz", images=image)
    shifted: dict[str, Any] = {key: value + wrong for key, value in expected.items()}
    np.savez(folder / "out.npz", **shifted)
    (folder / "tiny.yaml").write_text(
        f"name: {name}\nmodel: tiny.onnx\nsource: '{source}'\nbackend: onnxruntime\nthreads: 1\n"
    )
    (folder / "release.yaml").write_text(
        f"name: tiny\nversion: '{seed}'\npipelines:\n  - pipeline: tiny.yaml\n"
        f"    golden: [{{input: in.npz, expected: out.npz}}]\n    bands: {bands}\n"
    )
    return folder / "release.yaml"


def unpacked(config: Path, root: Path) -> str:
    """Pack a release, and unpack it as a device does; returns its digest."""
    release = archive.plan(config)
    packed = config.parent.with_suffix(".tar")
    with packed.open("wb") as file:
        archive.pack(config.parent, release, file)
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    Layout(root).stage(packed, digest)
    return digest
