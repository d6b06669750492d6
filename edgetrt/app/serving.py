"""What this device should run now, one pure composition of what lies on its disk.

    the device's pipeline files  <  what was deployed  <  the release that `update/current` leads to

Nothing else is stored: switching that link and letting the runtime look again is the whole switch to a
release, and switching it back is the whole way back. A restart begins with the same composition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt import document
from edgetrt.app.networks import active
from edgetrt.app.places import state_dir
from edgetrt.config import DeviceConfig, PipelineConfig
from edgetrt.engine import recipe as recipes
from edgetrt.engine.active import Deployed
from edgetrt.errors import ConfigError, UpdateError

if TYPE_CHECKING:
    from edgetrt.engine.active import Record
    from edgetrt.update.built import Built
    from edgetrt.update.release import Part, Release


@dataclass(frozen=True)
class Serving:
    """One pipeline as it should run.

    Attributes:
        pipeline: its settings.
        base: the folder that relative paths in them start from.
        engine: what it runs, from the engine cache; None = the network that the settings name.
        release: digest of the release that brought the engine; empty = none did.
        file: where the settings come from; None = from a deployment.
    """

    pipeline: PipelineConfig
    base: Path
    engine: Deployed | None = None
    release: str = ""
    file: Path | None = None


def wanted(device: DeviceConfig, path: Path) -> dict[str, Serving]:
    """What this device should run, by pipeline name.

    Args:
        device: its settings.
        path: the file they come from.

    Raises:
        ConfigError: a pipeline file is wrong, or two have the same name.
        UpdateError: the release that should serve is damaged, or was not built here.
    """
    return compose(pipelines_of(device, path), active().all(), released(updates_dir()))


def compose(
    files: Mapping[str, Serving], records: Iterable[Record], release: Iterable[Serving]
) -> dict[str, Serving]:
    """Lay the layers over each other.

    A record without a source brings its engine to the pipeline file of its name, and is nothing without
    one; so does a pipeline of a release whose `source` is empty, since cameras are the device's own.
    Where a file of that name is, a record brings its engine and the file keeps the settings.
    """
    found = dict(files)
    for record in records:
        name = record.pipeline.name
        if name in found:
            found[name] = replace(found[name], engine=record.current)
        elif record.pipeline.source:
            found[name] = Serving(record.pipeline, Path("/"), record.current)
    for new in release:
        below = found.get(new.pipeline.name)
        if new.pipeline.source:
            found[new.pipeline.name] = new
        elif below is not None:
            found[new.pipeline.name] = replace(below, engine=new.engine, release=new.release)
    return found


def pipelines_of(device: DeviceConfig, path: Path) -> dict[str, Serving]:
    """The pipelines of the device's own files.

    Raises:
        ConfigError: a file is wrong, or two have the same name.
    """
    found: dict[str, Serving] = {}
    for file in pipeline_files(device, path):
        pipeline = document.load(file, PipelineConfig)
        if pipeline.name in found:
            raise ConfigError(
                f"{file}: name: another pipeline is called {pipeline.name!r}",
                "Give each pipeline a name of its own.",
            )
        found[pipeline.name] = Serving(pipeline, file.parent, file=file)
    return found


def pipeline_files(device: DeviceConfig, path: Path) -> list[Path]:
    """Every pipeline file that a device config names, folders in order of name.

    The folder that is looked for without being named may be missing: a release brings pipelines, too.

    Raises:
        ConfigError: a named file or folder is not there.
    """
    found: list[Path] = []
    for entry in device.pipelines:
        file = document.beside(path, entry)
        if not file.exists() and device.pipelines == DeviceConfig().pipelines:
            continue
        if not file.exists():
            raise ConfigError(
                f"{path}: pipelines: {file} does not exist", "Make it, or fix the path."
            )
        found += sorted(file.glob("*.yaml")) if file.is_dir() else [file]
    return found


def updates_dir() -> Path:
    """The folder of updates."""
    return state_dir() / "update"


def current(root: Path) -> str:
    """Digest of the release that `current` leads to; empty when there is none."""
    link = root / "current"
    return link.readlink().name if link.is_symlink() else ""


def released(root: Path) -> list[Serving]:
    """The pipelines of the release that should serve; none when there is no release.

    Raises:
        UpdateError: it is damaged, or was not built here.
    """
    if not (digest := current(root)):
        return []
    from edgetrt.update import archive, built

    folder = root / "releases" / digest
    return parts(folder, archive.read(folder), built.serving(root, digest))


def parts(folder: Path, release: Release, built: Built) -> list[Serving]:
    """The pipelines of an unpacked release with the engines that were built for it here."""
    return [_part(folder, part, built, folder.name) for part in release.pipelines]


def _part(folder: Path, part: Part, built: Built, digest: str) -> Serving:
    """One pipeline of a release.

    Raises:
        UpdateError: no engine was built for it.
    """
    file = folder / part.pipeline
    pipeline = document.load(file, PipelineConfig)
    made = next((one for one in built.pipelines if one.name == part.name), None)
    if made is None:
        raise UpdateError(
            f"release {digest[:12]}: no engine was built for pipeline {part.name!r}",
            f"Build it again: edgetrt update build {digest}",
            "unbuilt",
        )
    recipe = recipes.for_pipeline(pipeline, file.parent)
    engine = Deployed(
        fingerprint=made.engine,
        backend=made.backend,
        model=str(recipe.model),
        precision=made.precision,
        deployed_at="",
        task=recipe.config.task,
        preprocess=recipe.config.preprocess,
        threads=made.threads,
        dla=made.dla,
    )
    return Serving(pipeline, file.parent, engine, digest, file)


def kept_engines() -> set[str]:
    """Engines that may not leave the cache: what pipelines run, what was before, and every release's here."""
    from edgetrt.update import built

    records = active().all()
    known = [engine for record in records for engine in (record.current, record.previous)]
    engines = {engine.fingerprint for engine in known if engine is not None}
    return engines | {part.engine for part in built.pipelines(updates_dir())}
