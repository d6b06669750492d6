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


def path(root: Path, digest: str) -> Path:
    """Where the document of a release is, or will be; `root` is the folder of updates."""
    return root / "built" / f"{digest}.json"


def write(root: Path, built: Built) -> None:
    """Store it; it is on the disk when this returns."""
    to = path(root, built.digest)
    to.parent.mkdir(mode=0o700, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(built), indent=2)
    durable.replace(to, data, 0o640)


def read(root: Path, digest: str) -> Built | None:
    """The document; None when there is none that can be read: it is built again then."""
    try:
        built = msgspec.json.decode(path(root, digest).read_bytes(), type=Built)
    except (OSError, msgspec.MsgspecError):
        return None
    return built if built.v == 1 and built.digest == digest else None


def forget(root: Path, digest: str) -> None:
    """Remove the document, before a build begins."""
    path(root, digest).unlink(missing_ok=True)


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
