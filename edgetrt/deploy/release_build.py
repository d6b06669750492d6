"""The engines of a release, made and tried on this device before anything is switched to it.

    each pipeline: recipe -> engine (as `deploy` makes it) -> loaded, run, asked its golden inputs
    -> update/built/<digest>.json

Whatever is found wrong ends up in that document as well, for the machine of updates to read. Begun again,
it finds what was made before in the engine cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt import __version__, app, document
from edgetrt.children import PARENT, follow_parent
from edgetrt.config import PipelineConfig
from edgetrt.deploy import deployment, rehearsal
from edgetrt.deploy.request import Request, look_up
from edgetrt.engine import recipe as recipes
from edgetrt.engine.cache import Cache, default_root
from edgetrt.errors import EdgetrtError, IncompatibleError, UpdateError
from edgetrt.update import archive, built
from edgetrt.update.built import Built, BuiltPipeline, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgetrt.engine.active import Deployed
    from edgetrt.engine.toolset import Say
    from edgetrt.update.record import Check
    from edgetrt.update.release import Part, Release

log = logging.getLogger(__name__)

_BENCH_S = 0.5
"""How long a finished engine runs by itself; how fast it is in its pipeline is seen after the switch."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def known(root: Path, digest: str) -> Path:
    """Folder of an unpacked release.

    Raises:
        UpdateError: there is no such release here.
    """
    folder = root / "releases" / digest
    if not _DIGEST.fullmatch(digest) or not folder.is_dir():
        raise UpdateError(
            f"{folder}: there is no such release here",
            "See `edgetrt update status`; its digest has 64 digits.",
            "nothing",
        )
    return folder


def build_apart(root: Path, digest: str, work: Callable[[], object]) -> Built:
    """Build a release in a child process, so that native code that crashes there is told as what it is.

    Args:
        root: folder of updates.
        digest: of the release.
        work: does it, there; see `build`.

    Raises:
        IncompatibleError: the release cannot run here.
    """
    built.forget(root, digest)
    os.environ[PARENT] = str(os.getpid())
    child = os.fork()
    if child == 0:
        os._exit(_in_child(work))
    del os.environ[PARENT]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0 and built.read(root, digest) is None:
        failure = rehearsal.died(f"release {digest[:12]}", status)
        built.write(root, Built(digest=digest, built_at=time.time(), failure=failure))
    return built.require(root, digest)


def _in_child(work: Callable[[], object]) -> int:
    """Do the work; what goes wrong in it is in the document, and told by the parent."""
    try:
        follow_parent()
        work()
    except EdgetrtError as error:
        return error.exit_code
    except BaseException:  # a fault of ours: nothing of it may run on in a copy of the parent
        log.exception("building")
        return EdgetrtError.exit_code
    return 0


def build(
    root: Path,
    digest: str,
    say: Say,
    rehearse: Callable[[rehearsal.Trial], rehearsal.Rehearsed] = rehearsal.rehearse,
) -> Built:
    """Make and try every engine of an unpacked release, and store what came of it.

    Args:
        root: folder of updates.
        digest: of the release.
        say: told what happens.
        rehearse: tries an engine.

    Raises:
        UpdateError: there is no such release here.
        EdgetrtError: the release cannot run here; the document says so as well.
    """
    folder = known(root, digest)
    built.sweep(root)
    parts: list[BuiltPipeline] = []
    try:
        release = archive.read(folder)
        for part in release.pipelines:
            made = _made(folder, part, say)
            say("try", part.name)
            parts.append(_tried(folder, release, part, made, rehearse))
            _require(release, parts[-1].checks)
        _joined(folder, release, _document(digest, parts))
    except EdgetrtError as error:
        built.write(root, _document(digest, parts, rehearsal.failure_of(error)))
        raise
    done = _document(digest, parts)
    built.write(root, done)
    return done


def _made(folder: Path, part: Part, say: Say) -> Deployed:
    """One pipeline's engine, from the cache where it is there.

    Raises:
        EdgetrtError: it cannot be made, or not run here.
    """
    file = folder / part.pipeline
    pipeline = document.load(file, PipelineConfig)
    request = Request(
        what=folder / part.recipe,
        name=part.name,
        backend=pipeline.backend,
        threads=pipeline.threads,
        bench_s=_BENCH_S,
    )
    recipe = recipes.for_pipeline(pipeline, file.parent)
    plan = replace(look_up(request), recipe=recipe, source=None, calib=None)
    say("build", part.name)
    report = deployment.make(request, plan, Cache(default_root()), say)
    if not report.runs_here:
        raise IncompatibleError(
            f"pipeline {part.name!r}: its engine for {report.backend} was built and cannot run here: no GPU",
            "Assign this release to devices with one.",
            "no-gpu",
        )
    return deployment.deployed(request, plan, report)


def _tried(
    folder: Path,
    release: Release,
    part: Part,
    engine: Deployed,
    rehearse: Callable[[rehearsal.Trial], rehearsal.Rehearsed],
) -> BuiltPipeline:
    """One engine, tried; one that was tried in the same way for another release here is known.

    Raises:
        IncompatibleError: it cannot be loaded or run.
    """
    words = _words(release, part, engine)
    for known in built.pipelines(folder.parent.parent):
        if known.tried == words and all(check.ok for check in known.checks):
            return msgspec.structs.replace(known, name=part.name, model=_within(folder, engine))
    trial = rehearsal.Trial(
        name=part.name, engine=engine, folder=str(folder), golden=part.golden, bands=part.bands
    )
    found = rehearse(trial)
    if found.failure is not None:
        raise _refused(found.failure)
    return BuiltPipeline(
        name=part.name,
        engine=engine.fingerprint,
        backend=engine.backend,
        precision=engine.precision,
        model=_within(folder, engine),
        threads=engine.threads,
        dla=engine.dla,
        checks=found.checks,
        memory_mb=found.memory_mb,
        first_ms=found.first_ms,
        tried=words,
    )


def _words(release: Release, part: Part, engine: Deployed) -> str:
    """Name all that the outcome of trying an engine depends on."""
    files = [
        [one, release.files[one.input].sha256, release.files[one.expected].sha256]
        for one in part.golden
    ]
    read = msgspec.structs.replace(engine, model="", deployed_at="")
    words = msgspec.json.encode([__version__, read, files, part.bands], order="sorted")
    return hashlib.sha256(words).hexdigest()


def _within(folder: Path, engine: Deployed) -> str:
    return str(Path(engine.model).relative_to(folder.resolve()))


def _require(release: Release, checks: Sequence[Check]) -> None:
    """Go on only when everything that was looked at is as promised.

    Raises:
        IncompatibleError: something is not.
    """
    for check in checks:
        if not check.ok:
            raise IncompatibleError(
                f"{release.name} {release.version}: {check.name}: {check.value}, limit {check.limit}",
                "It was not switched to. Judge it on a device like this one, then publish it again.",
                check.name.partition(" ")[0],
            )


def _joined(folder: Path, release: Release, found: Built) -> None:
    """See that every pipeline can be put together, as far as that is known before it runs.

    Raises:
        ConfigError: a source or a sink is written wrongly.
    """
    for one in app.parts(folder, release, found):
        if one.pipeline.source:
            app.parts_named(one.pipeline, one.base, one.file)


def _document(digest: str, parts: Sequence[BuiltPipeline], failure: Failure | None = None) -> Built:
    return Built(digest=digest, built_at=time.time(), pipelines=tuple(parts), failure=failure)


def _refused(failure: Failure) -> IncompatibleError:
    return IncompatibleError(failure.message, failure.hint, failure.code)
