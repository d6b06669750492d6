"""Calibration frames: checked against the network, and kept on disk to be read again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetrt.errors import ModelError
from edgetrt.model.reference import Feed
from edgetrt.types import TensorSpec


class Frames:
    """Input tensors of a number of frames, in files; iterate over it as often as needed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        for file in self._files:
            with np.load(file, allow_pickle=False) as arrays:
                yield {name: arrays[name] for name in arrays.files}

    def __contains__(self, feed: object) -> bool:
        """A collection can be asked; by identity, since every pass reads the frames anew."""
        return any(feed is known for known in self)

    def first(self, count: int) -> Frames:
        """The first `count` of them."""
        return Frames(self._files[:count])

    def spread(self, count: int) -> Frames:
        """At most `count` of them, evenly spaced."""
        if count >= len(self._files):
            return self
        return Frames([self._files[i * len(self._files) // count] for i in range(count)])


def spool(
    feeds: Iterable[Feed], inputs: Sequence[TensorSpec], folder: Path, limit: int | None = None
) -> Frames:
    """Check feeds and keep them in `folder`, which is the caller's to delete.

    Args:
        feeds: preprocessed frames, {input name: array}.
        inputs: what the network takes; see `storage.input_specs`.
        folder: an existing folder.
        limit: how many to take; None for all.

    Raises:
        ModelError: no frame at all, or one that does not fit an input.
    """
    files = []
    for index, feed in enumerate(islice(feeds, limit)):
        _check(feed, inputs, index)
        files.append(folder / f"{index:06}.npz")
        with files[-1].open("wb") as out:
            arrays: dict[str, Any] = {spec.name: feed[spec.name] for spec in inputs}
            np.savez(out, **arrays)
    if not files:
        raise ModelError(
            "no calibration data: INT8 and the accuracy gate need frames, got none",
            "Give a folder of images or a recording with --calib; 100 to 500 varied frames do.",
        )
    return Frames(files)


def _check(feed: Feed, inputs: Sequence[TensorSpec], index: int) -> None:
    for spec in inputs:
        if spec.name not in feed:
            raise ModelError(
                f"calibration frame {index}: input {spec.name} is missing, "
                f"got {', '.join(sorted(feed)) or 'nothing'}",
                "Name the arrays as the network names its inputs.",
            )
        array = feed[spec.name]
        if not _fits(array.shape, spec.shape):
            raise ModelError(
                f"calibration frame {index}: input {spec.name} has shape {array.shape}, "
                f"expected {spec.shape}",
                "Preprocess the frames as the pipeline does; -1 may be any size.",
            )
        if array.dtype.name != spec.dtype:
            raise ModelError(
                f"calibration frame {index}: input {spec.name} is {array.dtype.name}, "
                f"expected {spec.dtype}",
                "Convert the frames to the type of the network's input.",
            )
        if not np.isfinite(array).all():
            raise ModelError(
                f"calibration frame {index}: input {spec.name} holds NaN or infinity",
                "Check the preprocessing and the source of the frames.",
            )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size == want or want < 0
        for size, want in zip(shape, wanted)  # noqa: B905
    )
