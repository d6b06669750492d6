from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.engine.plan import check_header, read_header
from edgetrt.errors import EngineMismatchError

TENSORRT_10_3 = b"ftrt" + bytes(20) + bytes([10, 3, 0, 30]) + b"engine"
# The head of a plan that TensorRT-RTX 1.7.1.116 wrote.
RTX_1_7 = bytes.fromhex("76747274000000000200000000000000345e33000000000001070174")


def ultralytics(plan: bytes) -> bytes:
    prefix = json.dumps({"task": "detect", "stride": 32}).encode()
    return struct.pack("<I", len(prefix)) + prefix + plan


def test_header_of_a_real_plan() -> None:
    header = read_header(RTX_1_7)
    assert (header.flavour, header.serialization) == ("tensorrt_rtx", 0)
    assert header.version == (1, 7, 1, 116)
    assert str(header) == "TensorRT-RTX 1.7.1.116"


def test_plan_of_this_version_is_accepted() -> None:
    check_header(read_header(TENSORRT_10_3), "tensorrt", (10, 3, 0))
    check_header(read_header(TENSORRT_10_3), "tensorrt", (10, 3, 0, 30))
    check_header(read_header(RTX_1_7), "tensorrt_rtx", (1, 7, 1, 116))


@pytest.mark.parametrize("version", [(10, 3, 0, 31), (10, 7, 0), (8, 6, 2), (11, 4, 1)])
def test_plan_of_another_version_says_both(version: tuple[int, ...]) -> None:
    with pytest.raises(EngineMismatchError) as caught:
        check_header(read_header(TENSORRT_10_3), "tensorrt", version, "person.plan")
    assert "person.plan: plan of TensorRT 10.3.0.30" in caught.value.message
    assert f"this device has TensorRT {'.'.join(map(str, version))}" in caught.value.message
    assert "Deploy the ONNX file again" in caught.value.hint


def test_plan_of_the_other_library() -> None:
    with pytest.raises(EngineMismatchError, match=r"plan of TensorRT-RTX 1\.7\.1\.116"):
        check_header(read_header(RTX_1_7), "tensorrt", (10, 3, 0))


def test_plans_before_8_6_carry_no_version() -> None:
    old = read_header(b"ftrt" + bytes(24))
    assert old.version is None
    check_header(old, "tensorrt", (8, 5, 2))
    with pytest.raises(EngineMismatchError, match=r"before 8\.6"):
        check_header(old, "tensorrt", (8, 6, 1))


def test_plan_with_metadata_in_front() -> None:
    header = read_header(ultralytics(TENSORRT_10_3))
    assert header.prefix == {"task": "detect", "stride": 32}
    assert ultralytics(TENSORRT_10_3)[header.offset :] == TENSORRT_10_3
    with pytest.raises(EngineMismatchError, match="Ultralytics metadata"):
        check_header(header, "tensorrt", (10, 3, 0))


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"", "0 bytes where a plan has a header of 28", "not written whole"),
        (TENSORRT_10_3[:27], "27 bytes", "not written whole"),
        (ultralytics(b"ftrt"), "4 bytes", "not written whole"),
        (b"PK\x03\x04" + bytes(40), "begins with", "PyTorch"),
        (b"\x08\x08\x12\x07pytorch" + bytes(40), "begins with", "edgetrt deploy"),
        (b"nothing like it" + bytes(40), "expected b'ftrt'", "built on the device"),
    ],
)
def test_what_is_no_plan(data: bytes, message: str, hint: str) -> None:
    with pytest.raises(EngineMismatchError) as caught:
        read_header(data, "x.plan")
    assert caught.value.message.startswith("x.plan: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


@given(st.binary(max_size=80))
def test_any_bytes_are_a_plan_or_refused(data: bytes) -> None:
    try:
        header = read_header(data)
    except EngineMismatchError:
        return
    assert data[header.offset : header.offset + 4] in {b"ftrt", b"vtrt"}
