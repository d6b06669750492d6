"""What was built of a release on this device: written by the build, read by the runtime and the machine.

`built/<digest>.json` beside the releases. It is there when the build came to an end, with a failure or
without; a build that was killed leaves none.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgetrt.errors import IncompatibleError
from edgetrt.update import durable
from edgetrt.update.record import Check


class BuiltPipeline(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline of a release, with the engine that was made for it here.

    Attributes:
        name: of the pipeline.
        engine: fingerprint in the engine cache.
        backend, threads, dla: what runs it.
        precision: what it computes in.
        model: the network's file in the release.
        checks: what was looked at before the switch.
        memory_mb: that loading it took; None where it cannot be told.
        first_ms: its first inference.
        tried: names what was tried, and how; the same again has the same outcome.
    """

    name: str
    engine: str
    backend: str
    precision: str
    model: str
    threads: int = 0
    dla: int | None = None
    checks: tuple[Check, ...] = ()
    memory_mb: float | None = None
    first_ms: float | None = None
    tried: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a release cannot run here; `code` is one word that a fleet can count."""

    code: str
    message: str
    hint: str = ""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """The document.

    Attributes:
        digest: of the release.
        built_at: seconds since 1970.
        pipelines: as far as it came.
        failure: why it is not for this device; None = it is ready.
    """

    v: int = 1
    digest: str
    built_at: float
    pipelines: tuple[BuiltPipeline, ...] = ()
    failure: Failure | None = None

    @property
    def checks(self) -> tuple[Check, ...]:
        """Those of every pipeline, named with it."""
        return tuple(
            msgspec.structs.replace(check, name=f"{part.name}: {check.name}")
            for part in self.pipelines
            for check in part.checks
        )


_DECODER = msgspec.json.Decoder(Built)


def path(root: Path, digest: str) -> Path:
    """Where the document of a release is, or will be; `root` is the folder of updates."""
    return root / "built" / f"{digest}.json"


def write(root: Path, built: Built) -> None:
    """Store it; it is on the disk when this returns."""
    to = path(root, built.digest)
    to.parent.mkdir(mode=0o700, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(built), indent=2)
    durable.replace(to, data, 0o640)
    if built.failure is None:
        _aside(root, built.digest).unlink(missing_ok=True)


def read(root: Path, digest: str) -> Built | None:
    """The document; None when there is none that can be read: it is built again then."""
    return _read(path(root, digest), digest)


def forget(root: Path, digest: str) -> None:
    """Put the document aside before a build begins: from now on there is none until it comes to an end.

    A good one is kept for who serves that release meanwhile, or goes back to it; see `serving`.
    """
    built = read(root, digest)
    if built is not None and built.failure is None:
        path(root, digest).replace(_aside(root, digest))
    else:
        path(root, digest).unlink(missing_ok=True)


def serving(root: Path, digest: str) -> Built:
    """What was built last, and can be served: also while it is being built again.

    Raises:
        IncompatibleError: it was never built here.
    """
    for found in (read(root, digest), _read(_aside(root, digest), digest)):
        if found is not None and found.failure is None:
            return found
    return require(root, digest)


def pipelines(root: Path) -> list[BuiltPipeline]:
    """Those of every release that is here, the one that waits included."""
    files = [*(root / "built").glob("*.json"), *(root / "built").glob("*.json.before")]
    found = [_read(file, file.name.partition(".")[0]) for file in files]
    return [part for built in found if built is not None for part in built.pipelines]


def sweep(root: Path) -> None:
    """Remove the documents of releases that are gone."""
    for file in (root / "built").glob("*.json*"):
        if not (root / "releases" / file.name.partition(".")[0]).is_dir():
            file.unlink(missing_ok=True)


def require(root: Path, digest: str) -> Built:
    """What was built, when it may be switched to.

    Raises:
        IncompatibleError: the build found that it may not, or died without a word.
    """
    built = read(root, digest)
    if built is None:
        raise IncompatibleError(
            f"release {digest[:12]}: its build ended without a word: killed, or crashed in native code",
            "See `journalctl -u edgetrt-build@*`; the device serves what it served before.",
            "crashed",
        )
    if built.failure is not None:
        raise IncompatibleError(built.failure.message, built.failure.hint, built.failure.code)
    return built


def _aside(root: Path, digest: str) -> Path:
    return root / "built" / f"{digest}.json.before"


def _read(file: Path, digest: str) -> Built | None:
    try:
        built = _DECODER.decode(file.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
    return built if built.v == 1 and built.digest == digest else None
