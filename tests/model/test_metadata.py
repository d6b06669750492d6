"""What exporters write is text from outside: read what is plain, note the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.model.metadata import flat_literal, read_metadata


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=20)
)
def test_every_repr_of_labels_comes_back(labels: list[str]) -> None:
    found = read_metadata({"names": repr(dict(enumerate(labels)))})

    assert found.labels == tuple(labels)
    assert found.notes == ()


@given(st.text(max_size=60))
def test_any_text_is_read_or_noted(text: str) -> None:
    found = read_metadata({"names": text, "imgsz": text, "stride": text})

    assert len(found.notes) + bool(found.labels) + bool(found.image_size) + bool(found.stride) == 3


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "{0: ['a']}",
        "{0: 'a', 2: 'b'}",
        "{0: 1}",
        "{}",
        "{0: 'a'",
        "(" * 100_000,
        "-" * 100_000 + "1",
        "{0: 'a'}" + " " * (1 << 20),
        "[f'{1}']",
        "{0: 'a', **{}}",
    ],
)
def test_malformed_labels_are_a_note(text: str) -> None:
    found = read_metadata({"names": text})

    assert found.labels == ()
    assert found.notes[0].startswith("metadata names ignored")


@pytest.mark.parametrize(
    ("text", "size"),
    [("[384, 512]", (512, 384)), ("640", (640, 640)), ("(320, 256)", (256, 320))],
)
def test_image_size_is_width_and_height(text: str, size: tuple[int, int]) -> None:
    assert read_metadata({"imgsz": text}).image_size == size


@pytest.mark.parametrize("text", ["[0, 5]", "-1", "[1, 2, 3]", "nan", "1e9", "[1.5, 2]", "True"])
def test_bad_image_size_is_a_note(text: str) -> None:
    found = read_metadata({"imgsz": text})

    assert found.image_size is None
    assert len(found.notes) == 1


def test_stride_of_several_heads_is_the_coarsest_last() -> None:
    assert read_metadata({"stride": "[8, 16, 32]"}).stride == 32


def test_only_flat_literals_are_evaluated() -> None:
    assert flat_literal("{0: 'a', 1: \"b's\"}") == {0: "a", 1: "b's"}
    with pytest.raises(ValueError, match="nested"):
        flat_literal("[[1]]")
