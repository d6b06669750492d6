"""Which engine each deployed pipeline runs: one record per pipeline, the one before it kept.

A record is written whole or not at all, so that a power cut leaves the old engine or the new one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from edgetrt.config import PipelineConfig, PreprocessConfig, TaskConfig
from edgetrt.engine.durable import flush, store
from edgetrt.errors import ConfigError

_NAME = re.compile(r"[a-z0-9-]{1,63}")
"""As `edgetrt.config.Name`, to the last character: it becomes a file's name."""


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """An engine in the cache, and what runs it.

    Attributes:
        fingerprint: its name in the cache.
        backend: what runs it.
        model: the network it was made from.
        precision: what it computes in.
        deployed_at: UTC, ISO 8601.
        task, preprocess: how it is read; they belong to the engine, so that a rollback brings them back.
        threads: of a CPU backend.
        dla: the DLA core that runs it.
    """

    fingerprint: str
    backend: str
    model: str
    precision: str
    deployed_at: str
    task: TaskConfig = TaskConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    threads: int = 0
    dla: int | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline runs.

    Attributes:
        pipeline: its settings; relative paths were resolved when it was deployed. Without a `source` it
            is no pipeline of its own: the engine serves the device's pipeline file of that name.
        current: the engine that serves.
        previous: the one before, for `rollback`.
    """

    pipeline: PipelineConfig
    current: Deployed
    previous: Deployed | None = None


_DECODER = msgspec.json.Decoder(Record)


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
            return _DECODER.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error.strerror}",
                "Run as the service's user (sudo -u edgetrt …), or choose another folder with EDGETRT_STATE.",
            ) from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: damaged: {error}", "Delete the file and deploy the pipeline again."
            ) from error

    def all(self) -> list[Record]:
        """Every record, by name."""
        return [record for name in self.names() if (record := self.get(name)) is not None]

    def names(self) -> list[str]:
        """What was deployed, in order."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

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
            raise ConfigError(
                f"pipeline {name!r}: nothing was deployed under that name",
                f"Deployed: {', '.join(self.names()) or 'nothing yet'}.",
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
        path = self._path(record.pipeline.name)
        text = msgspec.json.format(msgspec.json.encode(record), indent=2)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = self._folder / f".{record.pipeline.name}.{os.getpid()}.new"
            fresh.unlink(missing_ok=True)
            store(fresh, text)
            fresh.replace(path)
            flush(self._folder)
        except OSError as error:
            raise ConfigError(
                f"{path}: what was deployed cannot be noted: {error.strerror}",
                "The engine is in the cache, and what served before goes on serving. Run as the service's "
                "user (sudo -u edgetrt …), or choose another folder with EDGETRT_STATE.",
            ) from error
        return record

    def _path(self, name: str) -> Path:
        return self._folder / f"{pipeline_name(name)}.json"


def pipeline_name(text: str) -> str:
    """A pipeline's name, which is a file's name as well.

    Raises:
        ConfigError: it cannot be one.
    """
    if not _NAME.fullmatch(text):
        raise ConfigError(
            f"pipeline {text!r}: not a name",
            "Use lower-case letters, digits and '-', 63 characters at most.",
        )
    return text
