"""The user's frames: from a folder, a video or the pipeline's source, preprocessed as the pipeline does."""

from __future__ import annotations

import hashlib
import math
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetrt.errors import SourceError, SourceLostError
from edgetrt.ports import EndOfStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgetrt.model.frames import Frames
    from edgetrt.runtime.reading import Reading
    from edgetrt.sources.uri import SourceUri

STRIDE = 5
"""Of a video every fifth frame is taken: neighbours show the same."""
PATIENCE_S = 10.0
"""How long a source may stay silent while frames are collected."""
TENSORS = (".npy", ".npz")


class SampleFrames:
    """Frames to calibrate and judge with.

    A folder whose files are all `.npy` or `.npz` holds input tensors as the network takes them; everything
    else is read as a source and preprocessed.

    Args:
        reading: how the network is read.
        source: where the frames come from.
        most: how many at most.
    """

    def __init__(self, reading: Reading, source: SourceUri, most: int) -> None:
        self._reading, self._source, self._most = reading, source, most

    def digest(self) -> str:
        """See `digest`."""
        return digest(self._source, self._most)

    def bytes(self) -> int:
        """How much disk all of them take at most."""
        spec = self._reading.input
        import numpy as np

        return self._most * math.prod(spec.shape) * np.dtype(spec.dtype).itemsize

    def spool(self, folder: Path, say: Callable[[float], None] = lambda _: None) -> Frames:
        """Preprocess the frames and keep them; `say` is told how far it is.

        Raises:
            SourceError: the source cannot be read.
            ModelError: it has no frames, or they do not fit the network's input.
        """
        from edgetrt.model import frames

        place = folder / "frames"
        place.mkdir(exist_ok=True)
        return frames.spool(self._told(say), (self._reading.input,), place, self._most)

    def _told(self, say: Callable[[float], None]) -> Iterator[dict[str, Any]]:
        for number, feed in enumerate(islice(self._feeds(), self._most), 1):
            say(number / self._most)
            yield feed

    def _feeds(self) -> Iterator[dict[str, Any]]:
        files = files_of(self._source)
        if files and all(file.suffix in TENSORS for file in files):
            return self._tensors(files)
        return self._pictures()

    def _tensors(self, files: list[Path]) -> Iterator[dict[str, Any]]:
        import numpy as np

        name = self._reading.input.name
        for file in files:
            try:
                held = np.load(file, allow_pickle=False)
                yield {name: held} if file.suffix == ".npy" else dict(held.items())
            except (OSError, ValueError) as error:
                raise SourceError(
                    f"{file}: cannot be read as an array: {error}",
                    "Save it with numpy.save, or numpy.savez with the inputs' names.",
                ) from error

    def _pictures(self) -> Iterator[dict[str, Any]]:
        import numpy as np

        from edgetrt import app
        from edgetrt.runtime.preprocess import Preprocessor

        spec = self._reading.input
        buffer = np.zeros(spec.shape, spec.dtype)
        preprocessor = Preprocessor(spec, buffer, self._reading.recipe.config.preprocess)
        stride = 1 if self._source.scheme == "dir" else STRIDE
        source = app.open_source(self._source)
        try:
            for number in count():
                frame = source.read(timeout_s=PATIENCE_S)
                if frame is None:
                    raise SourceLostError(
                        f"{self._source}: no frame for {PATIENCE_S:.0f} s", "Is the camera running?"
                    )
                if number % stride == 0:
                    preprocessor.write(frame)
                    yield {spec.name: buffer.copy()}
        except EndOfStream:
            return
        finally:
            source.close()


def digest(source: SourceUri, most: int) -> str:
    """Name frames by their files' names, sizes and dates, or by the source's address.

    Raises:
        SourceError: a file is not there.
    """
    try:
        stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files_of(source)]
    except OSError as error:
        raise SourceError(
            f"{source}: cannot be read: {error.strerror}: {error.filename}", "Check the path."
        ) from error
    return hashlib.sha256(repr((str(source), most, stats)).encode()).hexdigest()


def files_of(source: SourceUri) -> list[Path]:
    """The files that a source reads, in order of name; none for a stream or a drawn scene."""
    path = Path(source.target)
    if source.scheme == "file":
        return [path]
    if source.scheme != "dir":
        return []
    found = path.iterdir() if path.is_dir() else path.parent.glob(path.name)
    return sorted(entry for entry in found if entry.is_file())
