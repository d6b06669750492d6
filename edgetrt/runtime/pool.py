"""The pipelines of this process, each in a thread: they come, change and go while the others run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from edgetrt import journal
from edgetrt.errors import CudaError, EdgetrtError
from edgetrt.runtime.aside import aside
from edgetrt.runtime.running import Job, RunningPipeline, begun, ready
from edgetrt.runtime.shadow import WITHIN_S, Agreement, Trials
from edgetrt.wire import Taken

if TYPE_CHECKING:
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.supervisor import Supervisor
    from edgetrt.types import PipelineHealth

log = logging.getLogger(__name__)

SWAP_S = 20.0
"""How long a pipeline may take to come to its next frame boundary."""

LOAD_S = 200.0
"""How long a pipeline that has just begun may take to load its network before who asks is told."""

_GLANCE_S = 0.02

STOP_S = 20.0
"""How long a pipeline may take to end; a camera's read comes back within half a second."""


class PipelinePool:
    """All of them. `begin`, `apply` and `close` are for one thread at a time each; reading is for any.

    Args:
        frames: frames that each pipeline looks at before it ends; None = to the end of its source.
        shadow_s: how long all shadow runs of one look take together.
        stop_s: how long a pipeline may take to end.
    """

    def __init__(
        self, frames: int | None = None, shadow_s: float = WITHIN_S, stop_s: float = STOP_S
    ) -> None:
        self._frames, self._shadow_s, self._stop_s = frames, shadow_s, stop_s
        self._running: dict[str, RunningPipeline] = {}
        self._applying = threading.Lock()
        self._guard = threading.Lock()
        self._closed = False
        self._fatal: CudaError | None = None

    def begin(self, jobs: Mapping[str, Job]) -> None:
        """Start every pipeline, each in a thread; one that cannot be put together fails there, alone."""
        running = {name: begun(job, self._frames) for name, job in jobs.items()}
        with self._guard:
            self._running = running
        for pipeline in running.values():
            pipeline.start()

    def get(self, name: str) -> Supervisor | None:
        """The supervisor of a pipeline; None when there is none of that name."""
        pipeline = self._running.get(name)
        return None if pipeline is None else pipeline.supervisor

    def names(self) -> list[str]:
        """Pipelines that are here, those that have ended included."""
        return list(self._list())

    def health(self) -> list[PipelineHealth]:
        """How each does."""
        return [pipeline.supervisor.meter.health() for pipeline in self._list().values()]

    def rates_hz(self) -> dict[str, float]:
        """What each was granted, where that is limited."""
        granted = {n: pipeline.supervisor.granted.rate_hz for n, pipeline in self._list().items()}
        return {name: rate_hz for name, rate_hz in granted.items() if rate_hz is not None}

    def working(self) -> bool:
        """Whether any is not over."""
        return any(not pipeline.over for pipeline in self._list().values())

    @property
    def fatal(self) -> CudaError | None:
        """The GPU is lost to this process; None while it is not."""
        lost = (pipeline.supervisor.fatal for pipeline in self._list().values())
        return self._fatal or next((error for error in lost if error is not None), None)

    def apply(
        self, look: Callable[[], Mapping[str, Job]], only: str = "", shadow: int = 0
    ) -> list[Taken]:
        """Let other jobs be done from now on: what changed is changed, one after the other.

        First networks are swapped, each loaded and warmed beside the one that serves; then what is gone
        ends, which sets its camera and its memory free; then comes what must be begun anew.

        Args:
            look: gives all that shall be done, by pipeline name; asked when its turn has come.
            only: look at this pipeline alone; empty = at all of them.
            shadow: how many live frames a network that is swapped in looks at before, to compare.

        Returns:
            What became of each; one that did not take its job does what it did before.

        Raises:
            EdgetrtError: what shall be done cannot be told; nothing was changed.
        """
        with self._applying:
            jobs, here = look(), self._list()
            names = [name for name in {**jobs, **here} if only in ("", name)]
            names.sort(key=lambda name: _turn(here.get(name), jobs.get(name)))
            swaps = [n for n in names if n in here and n in jobs and here[n].swaps_to(jobs[n])]
            trials = Trials(shadow, len(swaps), self._shadow_s)
            return [self._settle(n, jobs.get(n), trials) for n in names if not self._closed]

    def close(self, patience_s: float = STOP_S) -> bool:
        """End every pipeline and wait for it; True when none of them failed."""
        self._closed = True
        # a load that is under way comes to its end
        idle = self._applying.acquire(timeout=patience_s)
        running = self._list()
        for pipeline in running.values():
            pipeline.stop.set()
        for pipeline in running.values():
            pipeline.end()
        if idle:
            self._applying.release()
        return not any(pipeline.failed for pipeline in running.values())

    def _list(self) -> dict[str, RunningPipeline]:
        with self._guard:
            return dict(self._running)

    def _settle(self, name: str, job: Job | None, trials: Trials) -> Taken:
        pipeline = self._running.get(name)
        try:
            if pipeline is not None and job is not None and pipeline.swaps_to(job):
                return self._swapped(pipeline, job, trials)
            did = self._change(name, pipeline, job)
            why = self._await_engine(name) if did == "kept" else ""
        except EdgetrtError as error:
            self._note(name, error)
            return Taken(pipeline=name, did="kept", engine=self._engine(name), error=error.message)
        return Taken(pipeline=name, did=did, engine=self._engine(name), error=why)

    def _note(self, name: str, error: EdgetrtError) -> None:
        told = journal.fields(pipeline=name)
        log.error("pipeline %s: %s", name, error.in_line, extra=told)
        if isinstance(error, CudaError) and error.fatal:
            self._fatal = error

    def _engine(self, name: str) -> str:
        supervisor = self.get(name)
        return "" if supervisor is None else supervisor.engine

    def _await_engine(self, name: str) -> str:
        """Wait while a pipeline that has just begun loads its network; why it did not, or nothing."""
        pipeline, deadline = self._running[name], time.monotonic() + LOAD_S
        supervisor = pipeline.supervisor
        while not (supervisor.engine or pipeline.over or supervisor.meter.state == "backoff"):
            if supervisor.meter.state == "stopped":  # it will open its network when it is let on
                network = ready(pipeline.job)
                supervisor.engine = network.fingerprint
                network.close()
            if self._closed or time.monotonic() > deadline:
                return f"its network was not loaded within {LOAD_S:.0f} s"
            time.sleep(_GLANCE_S)
        return "" if supervisor.engine else supervisor.meter.error

    def _change(self, name: str, pipeline: RunningPipeline | None, job: Job | None) -> str:
        if job is None:
            self._dismiss(name, pipeline)
            return "stopped"
        if pipeline is None:
            self._take_on(job, ready(job))
            return "started"
        if pipeline.restarts_for(job):
            self._replace(pipeline, job)
            return "restarted"
        pipeline.take(job)
        return "kept"

    def _swapped(self, pipeline: RunningPipeline, job: Job, trials: Trials) -> Taken:
        """Load and warm the new network, let it look at live frames first if wanted, and swap it in."""
        trials.begin()
        network, agreed = ready(job), Agreement(None, 0)
        if trials.frames > 0 and pipeline.supervisor.pipeline is not None:
            try:
                agreed = aside(lambda: trials.run(partial(pipeline.supervisor.shadow, network)))
            except BaseException:
                network.close()
                raise
        self._swap(pipeline, job, network)
        return Taken(
            pipeline=job.name,
            did="swapped",
            engine=pipeline.supervisor.engine,
            agreement=agreed.value,
            compared=agreed.frames,
        )

    def _swap(self, pipeline: RunningPipeline, job: Job, network: Network) -> None:
        before = pipeline.job
        pipeline.take(job)  # a pipeline that opens again meanwhile opens the new one
        if not pipeline.supervisor.swap(network, SWAP_S):
            pipeline.take(before)
            state = pipeline.supervisor.meter.state
            raise EdgetrtError(
                f"pipeline {job.name!r}: it is {state} and took no other network",
                "It runs the one before; see the runtime's log.",
            )

    def _take_on(self, job: Job, network: Network | None) -> None:
        try:
            pipeline = RunningPipeline(job, self._frames)
        except BaseException:
            if network is not None:
                network.close()
            raise
        if network is not None:
            pipeline.supervisor.swap(network, SWAP_S)
        before = self.get(job.name)
        if before is not None:
            pipeline.supervisor.limit(before.limited)
        with self._guard:
            if not self._closed:  # else nobody would end it
                self._running[job.name] = pipeline
                pipeline.start()
                return
        pipeline.supervisor.close()

    def _replace(self, pipeline: RunningPipeline, job: Job) -> None:
        """End a pipeline and begin its new job; the old one again where that cannot be begun."""
        network = ready(job)
        if not pipeline.end(self._stop_s):
            network.close()
            raise _hangs(job.name, self._stop_s)
        try:
            self._take_on(job, network)
        except EdgetrtError:
            self._take_on(pipeline.job, None)
            raise

    def _dismiss(self, name: str, pipeline: RunningPipeline | None) -> None:
        if pipeline is not None and not pipeline.end(self._stop_s):
            raise _hangs(name, self._stop_s)
        with self._guard:
            self._running.pop(name, None)


def _hangs(name: str, within_s: float) -> EdgetrtError:
    return EdgetrtError(
        f"pipeline {name!r}: it did not end within {within_s:g} s",
        "The watchdog ends the process when it hangs for good.",
    )


def _turn(pipeline: RunningPipeline | None, job: Job | None) -> int:
    """Swaps first, then ends, then beginnings."""
    if job is None:
        return 1
    return 2 if pipeline is None or pipeline.restarts_for(job) else 0
