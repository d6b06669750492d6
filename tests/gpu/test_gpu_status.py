"""CUDA's answers in words."""

from __future__ import annotations

import pickle

import pytest

from edgetrt.gpu.status import FATAL, cuda_error, mebibytes, status_of


def test_an_answer_names_what_was_asked_and_what_to_do() -> None:
    error = cuda_error("allocating 4.0 MiB", "CUDA_ERROR_OUT_OF_MEMORY", "1.0 MiB are free")
    assert error.message == "allocating 4.0 MiB: CUDA_ERROR_OUT_OF_MEMORY (1.0 MiB are free)"
    assert "memory" in error.hint
    assert not error.fatal


@pytest.mark.parametrize("status", sorted(FATAL))
def test_sticky_answers_end_the_process(status: str) -> None:
    error = cuda_error("waiting", status)
    assert error.fatal
    assert "systemd" in error.hint


def test_all_of_it_survives_pickling() -> None:
    error = cuda_error("waiting", "CUDA_ERROR_ILLEGAL_ADDRESS")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (again.message, again.hint, again.status, again.fatal) == (
        error.message,
        error.hint,
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        True,
    )


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("cuMemAlloc failed: out of memory", "CUDA_ERROR_OUT_OF_MEMORY"),
        (
            "cuStreamSynchronize failed: an illegal memory access was encountered",
            "CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
        (
            "cuModuleLoadDataEx failed: device kernel image is invalid - ",
            "CUDA_ERROR_INVALID_IMAGE",
        ),
        ("cuNew failed: words of a later release", "CUDA_ERROR"),
        ("no such thing", "CUDA_ERROR"),
    ],
)
def test_pycudas_words_become_names(words: str, status: str) -> None:
    assert status_of(words) == status


def test_sizes_for_people() -> None:
    assert mebibytes(3 << 19) == "1.5 MiB"
