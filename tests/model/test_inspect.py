"""What is read of a network, and what is said of a file that is none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgetrt.errors import ModelError
from edgetrt.model.inspect import inspect, summarize
from edgetrt.types import TensorSpec
from tests.model.onnx_graphs import model, node, save, weights

PERSON = Path(__file__).parents[2] / "engines" / "person" / "person.onnx"


def classifier(metadata: dict[str, str] | None = None) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f g", "y"),
    ]
    constants = {"w": weights(4, 3, 3, 3), "b": weights(4), "g": weights(4, 10)}
    return model(nodes, {"x": (1, 3, 8, 16)}, ["y"], constants, metadata=metadata)


def test_the_person_model_needs_no_config() -> None:
    info = inspect(PERSON)

    assert info.task == "detect"
    assert info.labels == ("person",)
    assert info.stride == 32
    assert info.image_size == (512, 384)
    assert info.inputs == (TensorSpec("images", (1, 3, 384, 512), "float32"),)
    assert info.outputs == (TensorSpec("output0", (1, 5, 4032), "float32"),)
    assert info.operators["Conv"] == 34
    assert 1.70e9 < info.flops < 1.74e9
    assert info.notes == ()


def test_counts_work_parameters_and_operators_by_hand(tmp_path: Path) -> None:
    info = inspect(save(classifier(), tmp_path))

    pixels = 8 * 16
    convolution = 2 * 4 * pixels * 3 * 3 * 3
    relu = pool = 4 * pixels
    assert info.flops == convolution + relu + pool + 2 * 10 * 4
    assert info.parameters == 4 * 3 * 3 * 3 + 4 + 4 * 10
    assert info.operators == {"Conv": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1}


def test_weights_in_constant_nodes_and_in_bodies_count(tmp_path: Path) -> None:
    kept = onnx.numpy_helper.from_array(weights(4, 5), "kept")
    shape = onnx.numpy_helper.from_array(np.array([4, 5]), "shape")
    bodies = [
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", [name], [f"{name}_out"])],
            name,
            [],
            [onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, (4, 5))],
            [onnx.numpy_helper.from_array(weights(4, 5), name)],
        )
        for name in ("one", "other")
    ]
    nodes = [
        node("Constant", "", "k", value=kept),
        node("Constant", "", "s", value=shape),
        node("If", "flag", "chosen", then_branch=bodies[0], else_branch=bodies[1]),
        node("Add", "x k", "sum"),
        node("Add", "sum chosen", "y"),
    ]
    made = model(nodes, {"x": (4, 5)}, ["y"], {"flag": np.array(True)})

    assert inspect(save(made, tmp_path)).parameters == 3 * 4 * 5


def test_work_is_counted_at_the_size_that_is_known(tmp_path: Path) -> None:
    made = model(
        [node("Relu", "x", "y")], {"x": ("n", 3, "h", "w")}, ["y"], metadata={"imgsz": "[8, 4]"}
    )
    path = save(made, tmp_path)

    assert inspect(path).flops == 3 * 8 * 4
    assert inspect(path, (2, 2)).flops == 3 * 2 * 2
    assert "open dimensions are counted as x [1, 3, 8, 4]" in inspect(path).notes


def test_a_network_that_takes_no_image_is_told_as_that(tmp_path: Path) -> None:
    path = save(model([node("Relu", "x", "y")], {"x": ("n", 2048)}, ["y"]), tmp_path)

    assert any("takes no image: input 'x'" in note for note in inspect(path).notes)


def test_a_deconvolution_works_for_every_input_pixel(tmp_path: Path) -> None:
    made = model(
        [node("ConvTranspose", "x w", "y", strides=[2, 2])],
        {"x": (1, 4, 8, 8)},
        ["y"],
        {"w": weights(4, 6, 2, 2)},
    )

    assert inspect(save(made, tmp_path)).flops == 2 * (4 * 8 * 8) * (6 * 2 * 2)


def test_open_dimensions_count_as_one_and_are_told(tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y")], {"x": ("N", 3, "h", 8)}, ["y"])
    info = inspect(save(made, tmp_path))

    assert info.inputs[0].shape == (-1, 3, -1, 8)
    assert info.flops == 3 * 8
    assert any("counted as 1" in note for note in info.notes)


def test_summary_reads_neither_nodes_nor_weights(tmp_path: Path) -> None:
    path = save(classifier({"task": "classify"}), tmp_path)
    whole, light = inspect(path), summarize(path)

    assert (light.task, light.inputs, light.outputs) == ("classify", whole.inputs, whole.outputs)


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    made = classifier()
    made.graph.input.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    )

    assert [spec.name for spec in summarize(save(made, tmp_path)).inputs] == ["x"]


@pytest.mark.parametrize(
    ("outputs", "task"),
    [((1, 84, 8400), "detect"), ((1, 300, 6), "detect"), ((1, 10), "raw"), ((1, 8400, 84), "raw")],
)
def test_task_is_guessed_from_the_shapes(
    tmp_path: Path, outputs: tuple[int, ...], task: str
) -> None:
    count = int(np.prod(outputs))
    made = model(
        [node("Flatten", "x", "f"), node("Gemm", "f w", "g"), node("Reshape", "g s", "y")],
        {"x": (1, 3, 1, 1)},
        ["y"],
        {"w": weights(3, count), "s": np.asarray(outputs, np.int64)},
    )
    summary = summarize(save(made, tmp_path))

    assert summary.task == task
    assert any("no task in the metadata" in note for note in summary.notes)


def test_digest_covers_external_data(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    before = inspect(path).digest
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "w.bin").write_bytes(bytes(data))

    assert inspect(path).digest != before


def test_external_data_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    weights_file = tmp_path / "w.bin"
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"w\.bin: cut off"):
        inspect(path)
    weights_file.unlink()
    with pytest.raises(ModelError, match=r"'w\.bin', which is missing; expected at .*w\.bin"):
        inspect(path)
    assert summarize(path).inputs[0].name == "x"


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    made = classifier()
    (tmp_path / "w.bin").write_bytes(b"\0" * 4096)
    folder = tmp_path / "sub"
    (folder / "a").mkdir(parents=True)
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())

    with pytest.raises(ModelError, match="outside the model's folder"):
        inspect(path)


def test_a_link_to_outside_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").rename(tmp_path / "real.bin")
    (folder / "w.bin").symlink_to(tmp_path / "real.bin")

    with pytest.raises(ModelError, match="outside the model's folder"):
        inspect(path)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"ftrt" + b"\0" * 24, "a TensorRT plan"),
        (b"vtrt" + b"\0" * 24, "a TensorRT-RTX plan"),
        (
            b"\x20\0\0\0" + b'{"task": "detect"}' + b" " * 20 + b"ftrt",
            "engine file with a JSON header",
        ),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a git-lfs pointer",
        ),
        (b"\x1c\0\0\0TFL3" + b"\0" * 20, "a TensorFlow Lite model"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, head: bytes, what: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(head)

    with pytest.raises(ModelError, match=what) as error:
        summarize(path)
    assert error.value.hint


def test_a_pytorch_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"")

    with pytest.raises(ModelError, match="a PyTorch checkpoint"):
        summarize(path)


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        summarize(tmp_path / "none.onnx")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match="is empty"):
        summarize(tmp_path / "empty.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        summarize(tmp_path)


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    made = model([node("Twice", "x", "y")], {"x": (1, 3, 8, 8)}, ["y"])
    made.graph.node[0].domain = "local"
    inner = [node("Relu", "a", "b"), node("Sigmoid", "b", "c")]
    opsets = [onnx.helper.make_opsetid("", 17)]
    made.functions.append(onnx.helper.make_function("local", "Twice", ["a"], ["c"], inner, opsets))
    made.opset_import.append(onnx.helper.make_opsetid("local", 1))

    assert inspect(save(made, tmp_path)).operators == {"Relu": 1, "Sigmoid": 1}


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_both(tmp_path: Path, part: float) -> None:
    data = PERSON.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * part)])

    for read in (summarize, inspect):
        with pytest.raises(ModelError, match="cut"):
            read(path)
