"""A repository as a device sees it: everything verified, from the first root to the last file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tuf.api.metadata import Metadata, Targets

from edgetrt.update import archive
from edgetrt.update.clock import SystemWallClock
from edgetrt.update.fetch import fetch
from edgetrt.update.origin import CHUNK, Reply
from edgetrt.update.trust import Trust


class FolderOrigin:
    """A folder in the place of a web server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self._folder}/"

    @contextlib.contextmanager
    def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
        """As `Origin.get`."""
        file = self._folder / path
        if not file.is_file():
            yield Reply(404, 0, 0, iter(()))
            return
        with file.open("rb") as stream:
            stream.seek(offset)
            chunks = iter(lambda: stream.read(CHUNK), b"")
            yield Reply(206 if offset else 200, offset, file.stat().st_size - offset, chunks)


def audit(public: Path, root: bytes) -> list[str]:
    """Verify, fetch and unpack every release of a repository into a folder that goes away.

    Returns:
        The releases.

    Raises:
        UpdateError: the first thing that does not hold.
    """
    metadata, targets = FolderOrigin(public / "metadata"), FolderOrigin(public / "targets")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trust = Trust(folder / "trust", root, SystemWallClock(trusted=True))
        session = trust.refresh(metadata, targets)
        path = folder / "trust/current/targets.json"
        found = Metadata[Targets].from_bytes(path.read_bytes()).signed.targets
        releases = [one for one in found if one.startswith("releases/")]
        for number, target in enumerate(releases):
            trusted = session.target(target)
            trusted.summary()
            fetched = fetch(trusted.wanted, [targets], folder / "downloads")
            archive.unpack(fetched, trusted.wanted.sha256, folder / str(number))
    return releases
