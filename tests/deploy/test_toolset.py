"""What the machine adds to a deployment: copies, frames, and TensorRT's own ways to say a precision."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgetrt.backends import tensorrt_build
from edgetrt.backends.tensorrt_api import Library
from edgetrt.deploy import sample_frames, toolset
from edgetrt.engine import recipe as recipes
from edgetrt.engine.spec import BuildSpec
from edgetrt.engine.toolset import Product
from edgetrt.errors import ModelError, SourceError
from edgetrt.model.activations import measure
from edgetrt.model.calibration import parse_cache
from edgetrt.model.quantize import TENSORRT, TENSORRT_8, Quantizer
from edgetrt.model.storage import read_skeleton
from edgetrt.runtime.reading import Reading
from edgetrt.sources import uri
from edgetrt.types import BuiltLayer
from tests.deploying import SIZE, detector, pictures
from tests.model import networks
from tests.standins import tensorrt as standins


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    return Reading.of(recipes.read(detector(tmp_path / "tiny.onnx")))


def frames(
    reading: Reading, place: str, folder: Path, most: int = 100
) -> sample_frames.SampleFrames:
    folder.mkdir(exist_ok=True)
    return sample_frames.SampleFrames(reading, uri.parse(place), most)


def test_pictures_are_preprocessed_and_counted(reading: Reading, tmp_path: Path) -> None:
    told: list[float] = []
    made = frames(reading, str(pictures(tmp_path / "p", 6)), tmp_path / "w", most=4)
    spooled = made.spool(tmp_path / "w", told.append)
    assert len(spooled) == 4
    assert told == [0.25, 0.5, 0.75, 1.0]
    (name, values), *_ = next(iter(spooled)).items()
    assert (name, values.shape) == ("images", (1, 3, SIZE, SIZE))
    assert 0 <= values.min() < values.max() <= 1
    assert made.bytes() == 4 * 3 * SIZE * SIZE * 4


def test_a_folder_of_arrays_is_taken_as_it_is(reading: Reading, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "0.npy", np.full((1, 3, SIZE, SIZE), 0.5, np.float32))
    np.savez(folder / "1.npz", images=np.zeros((1, 3, SIZE, SIZE), np.float32))
    found = [
        f["images"].mean() for f in frames(reading, str(folder), tmp_path / "w").spool(tmp_path)
    ]
    assert found == [0.5, 0.0]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 32, 32), np.float32), r"shape \(1, 3, 32, 32\), expected"),
        (np.zeros((1, 3, SIZE, SIZE), np.uint8), "is uint8, expected float32"),
        (np.full((1, 3, SIZE, SIZE), np.nan, np.float32), "NaN"),
    ],
)
def test_frames_that_do_not_fit_are_refused(
    reading: Reading, tmp_path: Path, array: Any, words: str
) -> None:
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "0.npy", array)
    with pytest.raises(ModelError, match=words):
        frames(reading, str(tmp_path / "arrays"), tmp_path / "w").spool(tmp_path / "w")


def test_a_damaged_array_is_named(reading: Reading, tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "0.npy").write_bytes(b"no array")
    with pytest.raises(SourceError, match=r"0\.npy: cannot be read"):
        frames(reading, str(tmp_path / "arrays"), tmp_path / "w").spool(tmp_path / "w")


def test_frames_are_named_by_their_files(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 3)
    first = sample_frames.digest(uri.parse(str(folder)), 10)
    assert sample_frames.digest(uri.parse(str(folder)), 10) == first
    assert sample_frames.digest(uri.parse(str(folder)), 11) != first
    (folder / "00.png").write_bytes((folder / "01.png").read_bytes())
    assert sample_frames.digest(uri.parse(str(folder)), 10) != first
    with pytest.raises(SourceError, match="gone"):
        sample_frames.digest(uri.parse(str(tmp_path / "gone.avi")), 10)


def test_weights_that_lie_beside_a_network_go_with_it(tmp_path: Path) -> None:
    made = networks.detector()
    path = tmp_path / "m.onnx"
    onnx.save(made, path, save_as_external_data=True, location="m.data", size_threshold=0)
    folder = tmp_path / "w"
    folder.mkdir()
    copy, extra = toolset.own_copy(path, folder)
    (tmp_path / "m.data").unlink()
    loaded = onnx.load(copy)
    assert len(loaded.graph.initializer) == len(made.graph.initializer)
    assert all(not weight.external_data for weight in loaded.graph.initializer)
    assert extra == {}


@pytest.fixture
def int8(tmp_path: Path) -> tuple[Path, Path]:
    plain = networks.save(networks.detector(), tmp_path / "fp32.onnx")
    quantizer = Quantizer(plain, measure(read_skeleton(plain), networks.images(3)), TENSORRT)
    quantizer.write(tmp_path / "int8.onnx", ["box_head"])
    return plain, tmp_path / "int8.onnx"


@pytest.mark.parametrize("release", ["8.6.1", "10.3.0"])
def test_the_old_dla_gets_scales_and_layer_precisions(
    release: str, int8: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, quantized = int8
    library = Library(standins.make(release, dla_cores=2), "tensorrt", release)
    spec = BuildSpec(quantized, "int8", typed=True, dla=0)
    weak = toolset.weakly_typed(spec, plain, tmp_path, library.numbers)
    assert not weak.typed
    assert weak.layer_precisions["box_head"] == "fp16"
    assert weak.calibration is not None
    version, scales = parse_cache(weak.calibration.read_text())
    assert version == {"8.6.1": 8601, "10.3.0": 100300}[release]
    assert scales["x"] > 0
    operators = {node.op_type for node in onnx.load(weak.onnx).graph.node}
    assert not operators & {"QuantizeLinear", "DequantizeLinear"}
    plan, built = tensorrt_build.build(weak, library, lambda event: None, lambda: False)
    assert plan
    assert built.layers


def test_fp16_on_the_old_dla_is_the_plain_network_with_a_flag(tmp_path: Path) -> None:
    spec = BuildSpec(tmp_path / "half.onnx", "fp16", typed=True, dla=0)
    weak = toolset.weakly_typed(spec, tmp_path / "plain.onnx", tmp_path, (10, 3, 0))
    assert (weak.onnx, weak.typed, weak.precision) == (tmp_path / "plain.onnx", False, "fp16")


@pytest.mark.parametrize(
    ("release", "flavour", "style"),
    [
        ("8.6.1", "tensorrt", TENSORRT_8),
        ("10.3.0", "tensorrt", TENSORRT),
        ("1.7.1", "tensorrt_rtx", TENSORRT),
    ],
)
def test_int8_weights_are_written_as_the_version_takes_them(
    reading: Reading, release: str, flavour: Any, style: Any
) -> None:
    library = Library(SimpleNamespace(), flavour, release)
    materials = toolset.Materials(reading, None, None, 0.1)
    tools = toolset.TensorRtToolset(library, None, materials)
    assert tools.style == style
    assert tools.load(Path("engine.plan")) is None
    assert tools.frames(Path(), lambda at: None) is None


def test_the_placement_is_scored_against_the_builder(reading: Reading) -> None:
    library = Library(SimpleNamespace(), "tensorrt", "10.3.0")
    tools = toolset.TensorRtToolset(library, None, toolset.Materials(reading, None, None, 0.1))
    layers = (BuiltLayer("{ForeignNode[a...b]}", "DLA", "DLA"), BuiltLayer("c", "GPU", "CONV"))
    expected = {"a": "DLA", "b": "DLA", "c": "DLA", "d": "GPU"}
    product = Product(Path("p"), Path("n"), layers=layers, source="log")
    told = tools.compare(expected, product)
    assert told is not None
    assert (told.source, told.agreed, told.compared) == ("log", 2, 3)
    assert told.differing == ["c: DLA, built GPU"]
    assert told.missing == ["d"]
    assert tools.compare(expected, Product(Path("p"), Path("n"))) is None
