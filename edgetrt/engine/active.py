"""Which engine each deployed pipeline runs: one record per pipeline, the one before it kept.

A record is written whole or not at all, so that a power cut leaves the old engine or the new one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from edgetrt.config import PipelineConfig
from edgetrt.errors import ConfigError


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """An engine in the cache, and what runs it.

    Attributes:
        fingerprint: its name in the cache.
        backend: what runs it.
        model: the network it was made from.
        precision: what it computes in.
        deployed_at: UTC, ISO 8601.
    """

    fingerprint: str
    backend: str
    model: str
    precision: str
    deployed_at: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline runs.

    Attributes:
        pipeline: its settings; relative paths were resolved when it was deployed.
        current: the engine that serves.
        previous: the one before, for `rollback`.
    """

    pipeline: PipelineConfig
    current: Deployed
    previous: Deployed | None = None


class Active:
    """The records, as JSON files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> Record | None:
        """The record of a pipeline; None when nothing was deployed under that name.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self._path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: damaged: {error}", "Delete the file and deploy the pipeline again."
            ) from error

    def all(self) -> list[Record]:
        """Every record, by name."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return [record for name in names if (record := self.get(name)) is not None]

    def activate(self, pipeline: PipelineConfig, engine: Deployed) -> Record:
        """Make an engine the one that serves; a repetition keeps what came before the first time."""
        known = self.get(pipeline.name)
        if known is None:
            previous = None
        elif known.current.fingerprint == engine.fingerprint:
            previous = known.previous
        else:
            previous = known.current
        return self._write(Record(pipeline=pipeline, current=engine, previous=previous))

    def rollback(self, name: str) -> Record:
        """Exchange the engine that serves with the one before.

        Raises:
            ConfigError: nothing was deployed under that name, or nothing came before.
        """
        known = self.get(name)
        if known is None:
            names = ", ".join(path.stem for path in sorted(self._folder.glob("*.json")))
            raise ConfigError(
                f"pipeline {name!r}: nothing was deployed under that name",
                f"Deployed: {names or 'nothing yet'}.",
            )
        if known.previous is None:
            raise ConfigError(
                f"pipeline {name!r}: this is its first engine, there is none to go back to",
                "Deploy another network under the same name first.",
            )
        return self._write(
            Record(pipeline=known.pipeline, current=known.previous, previous=known.current)
        )

    def _write(self, record: Record) -> Record:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(record.pipeline.name)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".new-", delete=False) as file:
            file.write(msgspec.json.format(msgspec.json.encode(record), indent=2))
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return record

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
