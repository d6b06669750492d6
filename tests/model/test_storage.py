from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgetrt.errors import ModelError
from edgetrt.model.frames import spool
from edgetrt.model.references import array_of, is_reference
from edgetrt.model.storage import (
    Spool,
    bytes_of_weights,
    copy_weights,
    input_specs,
    read_skeleton,
    require_opset,
    write_network,
)
from edgetrt.model.wire_format import encode, fields, tag
from edgetrt.model.wiring import Wiring
from edgetrt.types import TensorSpec
from tests.model.networks import detector, images, save


@given(st.integers(0, 2**63))
def test_a_varint_reads_back(value: int) -> None:
    data = encode(1 << 3) + encode(value)
    (field,) = fields(data, 0, len(data))
    assert (field.number, field.wire, field.end) == (1, 0, len(data))


@given(st.lists(st.tuples(st.integers(1, 500), st.binary(max_size=300)), max_size=8))
def test_fields_step_over_every_payload(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(tag(number, len(body)) + body for number, body in parts)
    found = [(f.number, data[f.begin : f.end]) for f in fields(data, 0, len(data))]
    assert found == parts


def test_a_network_is_written_as_it_was_read(tmp_path: Path) -> None:
    path = save(detector(), tmp_path / "net.onnx")
    skeleton = read_skeleton(path)
    assert any(is_reference(t) for t in skeleton.graph.initializer)
    write_network(skeleton, tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx") == onnx.load(path)
    assert skeleton.ByteSize() < path.stat().st_size


def test_weights_are_mapped_with_their_values(tmp_path: Path) -> None:
    model = detector()
    skeleton = read_skeleton(save(model, tmp_path / "net.onnx"))
    for tensor, original in zip(skeleton.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(array_of(tensor), numpy_helper.to_array(original))
    assert bytes_of_weights(skeleton) >= 8 * 8 * 9 * 4


def test_external_data_is_read_and_moved(tmp_path: Path) -> None:
    model, path = detector(), tmp_path / "net.onnx"
    onnx.save(detector(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    skeleton = read_skeleton(path)
    write_network(skeleton, tmp_path / "whole.onnx")
    assert onnx.load(tmp_path / "whole.onnx").graph.initializer[0].raw_data
    (tmp_path / "moved").mkdir()
    light = copy_weights(skeleton, tmp_path / "moved" / "all.bin")
    (tmp_path / "moved" / "light.onnx").write_bytes(light.SerializeToString())
    again = onnx.load(tmp_path / "moved" / "light.onnx")
    for tensor, original in zip(again.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor), numpy_helper.to_array(original)
        )


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = tmp_path / "net.onnx"
    model = detector()
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        read_skeleton(path)


def test_a_short_or_missing_weights_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(detector(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").write_bytes(b"\0" * 10)
    with pytest.raises(ModelError, match="too short"):
        read_skeleton(path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match="missing"):
        read_skeleton(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_a_model_error(tmp_path: Path, share: float) -> None:
    path = save(detector(), tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError):
        read_skeleton(path)


@given(data=st.binary(min_size=1, max_size=400))
def test_any_bytes_are_a_model_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "junk.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        read_skeleton(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx: no such file"):
        read_skeleton(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize(("opset", "hint"), [(9, "version_converter"), (999, "newer onnx")])
def test_opsets_out_of_range_say_what_to_do(opset: int, hint: str) -> None:
    model = detector()
    model.opset_import[0].version = opset
    with pytest.raises(ModelError, match=f"opset {opset}") as caught:
        require_opset(model, Path("net.onnx"))
    assert hint in caught.value.hint


def test_a_spool_leaves_no_file(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as store:
        big = store.add("big", np.arange(1000, dtype=np.float16))
        small = store.add("small", np.ones(3, np.float16))
        np.testing.assert_array_equal(array_of(big), np.arange(1000))
        assert is_reference(big)
        assert not is_reference(small)
    assert list(tmp_path.iterdir()) == []


SPEC = (TensorSpec("x", (1, 3, -1, 16), "float32"),)


def test_frames_can_be_read_twice(tmp_path: Path) -> None:
    frames = spool(iter(images(5)), SPEC, tmp_path)
    assert len(frames) == 5
    for _ in range(2):
        for got, expected in zip(frames, images(5), strict=True):
            np.testing.assert_array_equal(got["x"], expected["x"])
    assert len(frames.spread(2)) == 2
    assert len(frames.spread(9)) == 5
    assert len(frames.first(3)) == 3


def test_no_frames_is_no_calibration_data(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no calibration data") as caught:
        spool([], SPEC, tmp_path)
    assert "--calib" in caught.value.hint


@pytest.mark.parametrize(
    ("feed", "what"),
    [
        ({"x": np.zeros((1, 3, 16, 17), np.float32)}, r"shape \(1, 3, 16, 17\), expected"),
        ({"x": np.zeros((3, 16, 16), np.float32)}, "shape"),
        ({"x": np.zeros((1, 3, 16, 16), np.uint8)}, "uint8, expected float32"),
        ({"y": np.zeros((1, 3, 16, 16), np.float32)}, "x is missing, got y"),
        ({"x": np.full((1, 3, 16, 16), np.nan, np.float32)}, "NaN"),
    ],
)
def test_a_frame_that_does_not_fit_is_told(
    tmp_path: Path, feed: dict[str, np.ndarray], what: str
) -> None:
    with pytest.raises(ModelError, match=what):
        spool([*images(1), feed], SPEC, tmp_path)


def test_inputs_leave_weights_out() -> None:
    assert input_specs(detector()) == (TensorSpec("x", (1, 3, 16, 16), "float32"),)


def test_what_onnx_cannot_infer_is_a_model_error() -> None:
    model = detector()
    del model.opset_import[:]
    with pytest.raises(ModelError, match="do not fit"):
        _ = Wiring(model).types
