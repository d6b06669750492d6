"""The device of the demo of updates: agent and runtime as processes, with a plug that can be pulled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from edgetrt.children import PARENT
from edgetrt.config import BrokerConfig
from edgetrt.demo import update_networks
from edgetrt.demo.update_site import PIPELINE

DEVICE, RATE_HZ = "demo", 12.0


class Device:
    """Starts and ends the two processes; what they keep lies in `folder`.

    Args:
        folder: an existing one.
        broker: where the agent connects.
        root: the first root metadata that the device trusts.
        repository: its address.
        programs: what is started instead of `edgetrt`, by process.
    """

    def __init__(
        self,
        folder: Path,
        broker: BrokerConfig,
        root: Path,
        repository: str,
        programs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._folder, self._programs = folder, programs or {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("run", "state", "cache", "logs"):
            (folder / name).mkdir(mode=0o700)
        update_networks.detector(folder / "street.onnx", seed=0)
        (folder / "root.json").write_bytes(root.read_bytes())
        self._write(broker, repository)

    @property
    def updates(self) -> Path:
        """Folder of updates."""
        return self._folder / "state" / "update"

    def start(self, *units: str) -> None:
        """Switch it on, or only some of its processes."""
        for unit in units or ("agent", "runtime"):
            command = [*self._programs.get(unit, (sys.executable, "-m", "edgetrt")), unit]
            options = ["--config", self._folder / "agent.yaml", "--run-dir", self._folder / "run"]
            with self._log(unit) as log:
                self._running[unit] = subprocess.Popen(
                    [*command, *map(str, options)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment(),
                    start_new_session=True,
                )

    def pull_plug(self) -> None:
        """Every process of it ends at once, and none gets to do anything about it."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running = {}

    def close(self) -> None:
        """Switch it off, as a person would."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self.pull_plug()

    def ended(self) -> str:
        """Which of the processes has ended by itself, with its last words; empty = none has."""
        for unit, process in self._running.items():
            if process.poll() is not None:
                log = (self._folder / "logs" / f"{unit}.log").read_text(errors="replace")
                last = " / ".join(log.strip().splitlines()[-3:])
                return f"the {unit} ended with {process.returncode}: {last}"
        return ""

    def runs(self, unit: str) -> bool:
        """Whether a process is there."""
        return unit in self._running and self._running[unit].poll() is None

    def pid(self, unit: str) -> int:
        """Of a process that was started."""
        return self._running[unit].pid

    def _log(self, unit: str) -> IO[bytes]:
        return (self._folder / "logs" / f"{unit}.log").open("ab")

    def _environment(self) -> dict[str, str]:
        made = {"EDGETRT_STATE": "state", "EDGETRT_CACHE": "cache"}
        folders = {name: str(self._folder / at) for name, at in made.items()}
        return {**os.environ, PARENT: str(os.getpid()), **folders}

    def _write(self, broker: BrokerConfig, repository: str) -> None:
        """The two files that a person would write; JSON is YAML."""
        pipeline = {
            "name": PIPELINE,
            "model": "street.onnx",
            "source": f"synthetic:160x120?objects=4&rate_hz={RATE_HZ:g}",
            "backend": "onnxruntime",
            "threads": 1,
        }
        device = {
            "device": DEVICE,
            "broker": {"host": broker.host, "port": broker.port, "spread_s": 0},
            "publish": {"health_s": 1},
            "outbox": {"store": "memory"},
            "update": {"root": "root.json", "repository": repository, "trust_clock": True},
            "pipelines": ["street.yaml"],
        }
        (self._folder / "street.yaml").write_text(json.dumps(pipeline))
        (self._folder / "agent.yaml").write_text(json.dumps(device))
