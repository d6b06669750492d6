"""Diagnostics of this device in one file, for a person to fetch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt.errors import StoreError

if TYPE_CHECKING:
    import tarfile

    from edgetrt.agent.entry import Moment

KEPT = 2
"""Files of diagnostics that stay on the disk."""

MOST_BYTES = 4_000_000
"""Of one text in it."""

_STATE = ("update/update.json", "settings.json", "audit/commands.jsonl")
"""Files of the state folder that go in; none holds a secret."""


async def collect(
    state: Path,
    device: str,
    now: Moment,
    said: Mapping[str, object],
    texts: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Pack it, beside the event loop; the last `KEPT` files stay.

    Args:
        state: the state folder.
        device: its name.
        now: for the file's name and times.
        said: what becomes JSON, by name.
        texts: lines, by file name.

    Returns:
        Path, size and digest.

    Raises:
        StoreError: the disk does not take it.
    """
    return await asyncio.to_thread(_write, state, device, now, dict(said), dict(texts))


def _write(
    state: Path,
    device: str,
    now: Moment,
    said: Mapping[str, object],
    texts: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    folder = state / "diagnostics"
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now.wall))
    path = folder / f"edgetrt-{device}-{stamp}.tar.gz"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        data = _packed(state, int(now.wall), said, texts)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.replace(path)
        _sweep(folder, path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror or error}", "Look at the disk's room."
        ) from error
    return {"path": str(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _packed(
    state: Path, seconds: int, said: Mapping[str, object], texts: Mapping[str, Sequence[str]]
) -> bytes:
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as tar:
        for name, value in said.items():
            _add(tar, f"{name}.json", msgspec.json.format(msgspec.json.encode(value)), seconds)
        for name, lines in texts.items():
            _add(tar, name, "\n".join(lines).encode(errors="replace"), seconds)
        for name in _STATE:
            with contextlib.suppress(OSError):
                _add(tar, Path(name).name, (state / name).read_bytes(), seconds)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, seconds: int) -> None:
    import tarfile

    entry = tarfile.TarInfo(f"edgetrt/{name}")
    entry.size, entry.mtime = min(len(data), MOST_BYTES), seconds
    tar.addfile(entry, io.BytesIO(data[-MOST_BYTES:]))


def _sweep(folder: Path, newest: Path) -> None:
    """Remove all but the newest files; which those are the disk's own times tell."""
    older = sorted(
        (path for path in folder.glob("edgetrt-*.tar.gz") if path != newest),
        key=lambda path: path.stat().st_mtime_ns,
    )
    for path in older[: max(0, len(older) - KEPT + 1)]:
        path.unlink()
