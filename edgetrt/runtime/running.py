"""One pipeline at work: what it shall do, its thread, and what another job would change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from edgetrt.errors import EdgetrtError
from edgetrt.runtime.aside import aside, may_come_back
from edgetrt.runtime.supervisor import unfit

if TYPE_CHECKING:
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.supervisor import Supervisor


@dataclass(frozen=True)
class Job:
    """What one pipeline shall do.

    Attributes:
        name: of the pipeline.
        network: names the network and how it is read; another value is another network.
        parts: names what cannot change while it runs, such as source and sinks.
        load: loads the network.
        make_supervisor: makes the pipeline's supervisor, with what opens its network.
        rate_hz: what it is asked for; None = as fast as it can.
    """

    name: str
    network: object
    parts: object
    load: Callable[[], Network] = field(compare=False)
    make_supervisor: Callable[[Callable[[], Network]], Supervisor] = field(compare=False)
    rate_hz: float | None = None


class RunningPipeline:
    """One pipeline at work: its job, its thread, and the way to end it alone."""

    def __init__(self, job: Job, frames: int | None) -> None:
        self.job = job
        self.stop = threading.Event()
        self.supervisor = job.make_supervisor(self._load)
        self._thread = threading.Thread(
            target=self.supervisor.run, args=(self.stop, frames), name=f"pipeline-{job.name}"
        )

    @property
    def over(self) -> bool:
        """Whether it has ended or failed for good."""
        return not self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether it gave up."""
        return self.over and self.supervisor.meter.state == "failed"

    def take(self, job: Job) -> None:
        """Do another job from the next opening on, and at its rate from now on."""
        if job.rate_hz != self.job.rate_hz:
            self.supervisor.demand(job.rate_hz)
        self.job = job

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self, timeout_s: float | None = None) -> bool:
        """Stop it and wait; False when it has not ended in time."""
        self.stop.set()
        self._thread.join(timeout_s)
        return self.over

    def _load(self) -> Network:
        """Load what the job says now; asked again after each failure."""
        return self.job.load()

    def restarts_for(self, job: Job) -> bool:
        """Whether it must be begun again for a job."""
        if self.stop.is_set():  # it was told to end before, and was too slow
            return True
        return self.failed or self.job.parts != job.parts or (self.over and self.job != job)

    def swaps_to(self, job: Job) -> bool:
        """Whether another network, and nothing but the rate besides, is all that changes."""
        return not self.restarts_for(job) and not self.over and self.job.network != job.network


def begun(job: Job, frames: int | None) -> RunningPipeline:
    """A pipeline for a job; one that cannot be put together fails when it runs, alone."""
    try:
        return RunningPipeline(job, frames)
    except EdgetrtError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - nor may a fault of ours keep the others from running
        failure = EdgetrtError(f"internal error: {type(error).__name__}: {error}")
    return RunningPipeline(replace(job, make_supervisor=partial(unfit, job.name, failure)), frames)


def ready(job: Job) -> Network:
    """Load a job's network and warm it, beside whatever runs.

    Raises:
        EdgetrtError: it cannot be loaded, or does not run.
    """
    network = aside(job.load) if may_come_back() else job.load()
    try:
        aside(network.warm)
    except BaseException:
        network.close()
        raise
    return network
