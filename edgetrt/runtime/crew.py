"""The pipelines of this process, each in a thread: they come, change and go while the others run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from edgetrt import journal
from edgetrt.errors import CudaError, EdgetrtError
from edgetrt.runtime.aside import aside, may_come_back
from edgetrt.runtime.shadow import WITHIN_S, Agreement, Trials
from edgetrt.runtime.supervisor import unfit
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


@dataclass(frozen=True)
class Job:
    """What one pipeline shall do.

    Attributes:
        name: of the pipeline.
        network: names the network and how it is read; another value is another network.
        parts: names what cannot change while it runs, such as source and sinks.
        load: loads the network.
        hire: makes the pipeline's supervisor, with what opens its network.
        rate_hz: what it is asked for; None = as fast as it can.
    """

    name: str
    network: object
    parts: object
    load: Callable[[], Network] = field(compare=False)
    hire: Callable[[Callable[[], Network]], Supervisor] = field(compare=False)
    rate_hz: float | None = None


class Post:
    """One pipeline at work: its job, its thread, and the way to end it alone."""

    def __init__(self, job: Job, frames: int | None) -> None:
        self.job = job
        self.stop = threading.Event()
        self.supervisor = job.hire(self._load)
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


class Crew:
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
        self._posts: dict[str, Post] = {}
        self._applying = threading.Lock()
        self._guard = threading.Lock()
        self._closed = False
        self._fatal: CudaError | None = None

    def begin(self, jobs: Mapping[str, Job]) -> None:
        """Start every pipeline, each in a thread; one that cannot be put together fails there, alone."""
        posts = {name: _first(job, self._frames) for name, job in jobs.items()}
        with self._guard:
            self._posts = posts
        for post in posts.values():
            post.start()

    def get(self, name: str) -> Supervisor | None:
        """The supervisor of a pipeline; None when there is none of that name."""
        post = self._posts.get(name)
        return None if post is None else post.supervisor

    def names(self) -> list[str]:
        """Pipelines that are here, those that have ended included."""
        return list(self._list())

    def health(self) -> list[PipelineHealth]:
        """How each does."""
        return [post.supervisor.meter.health() for post in self._list().values()]

    def rates_hz(self) -> dict[str, float]:
        """What each was granted, where that is limited."""
        granted = {n: post.supervisor.granted.rate_hz for n, post in self._list().items()}
        return {name: rate_hz for name, rate_hz in granted.items() if rate_hz is not None}

    def working(self) -> bool:
        """Whether any is not over."""
        return any(not post.over for post in self._list().values())

    @property
    def fatal(self) -> CudaError | None:
        """The GPU is lost to this process; None while it is not."""
        lost = (post.supervisor.fatal for post in self._list().values())
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
            swaps = [n for n in names if n in here and n in jobs and _swaps(here[n], jobs[n])]
            trials = Trials(shadow, len(swaps), self._shadow_s)
            return [self._settle(n, jobs.get(n), trials) for n in names if not self._closed]

    def close(self, patience_s: float = STOP_S) -> bool:
        """End every pipeline and wait for it; True when none of them failed."""
        self._closed = True
        # a load that is under way comes to its end
        idle = self._applying.acquire(timeout=patience_s)
        posts = self._list()
        for post in posts.values():
            post.stop.set()
        for post in posts.values():
            post.end()
        if idle:
            self._applying.release()
        return not any(post.failed for post in posts.values())

    def _list(self) -> dict[str, Post]:
        with self._guard:
            return dict(self._posts)

    def _settle(self, name: str, job: Job | None, trials: Trials) -> Taken:
        post = self._posts.get(name)
        try:
            if post is not None and job is not None and _swaps(post, job):
                return self._swapped(post, job, trials)
            did = self._change(name, post, job)
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
        post, deadline = self._posts[name], time.monotonic() + LOAD_S
        supervisor = post.supervisor
        while not (supervisor.engine or post.over or supervisor.meter.state == "backoff"):
            if supervisor.meter.state == "stopped":  # it will open its network when it is let on
                network = ready(post.job)
                supervisor.engine = network.fingerprint
                network.close()
            if self._closed or time.monotonic() > deadline:
                return f"its network was not loaded within {LOAD_S:.0f} s"
            time.sleep(_GLANCE_S)
        return "" if supervisor.engine else supervisor.meter.error

    def _change(self, name: str, post: Post | None, job: Job | None) -> str:
        if job is None:
            self._dismiss(name, post)
            return "stopped"
        if post is None:
            self._take_on(job, ready(job))
            return "started"
        if _anew(post, job):
            self._replace(post, job)
            return "restarted"
        post.take(job)
        return "kept"

    def _swapped(self, post: Post, job: Job, trials: Trials) -> Taken:
        """Load and warm the new network, let it look at live frames first if wanted, and swap it in."""
        network, agreed = ready(job), Agreement(None, 0)
        if trials.frames > 0 and post.supervisor.pipeline is not None:
            try:
                agreed = aside(lambda: trials.run(partial(post.supervisor.shadow, network)))
            except BaseException:
                network.close()
                raise
        self._swap(post, job, network)
        return Taken(
            pipeline=job.name,
            did="swapped",
            engine=post.supervisor.engine,
            agreement=agreed.value,
            compared=agreed.frames,
        )

    def _swap(self, post: Post, job: Job, network: Network) -> None:
        before = post.job
        post.take(job)  # a pipeline that opens again meanwhile opens the new one
        if not post.supervisor.swap(network, SWAP_S):
            post.take(before)
            state = post.supervisor.meter.state
            raise EdgetrtError(
                f"pipeline {job.name!r}: it is {state} and took no other network",
                "It runs the one before; see the runtime's log.",
            )

    def _take_on(self, job: Job, network: Network | None) -> None:
        try:
            post = Post(job, self._frames)
        except EdgetrtError:
            if network is not None:
                network.close()
            raise
        if network is not None:
            post.supervisor.swap(network, SWAP_S)
        with self._guard:
            if not self._closed:  # else nobody would end it
                self._posts[job.name] = post
                post.start()
                return
        post.supervisor.close()

    def _replace(self, post: Post, job: Job) -> None:
        """End a pipeline and begin its new job; the old one again where that cannot be begun."""
        network = ready(job)
        if not post.end(self._stop_s):
            network.close()
            raise _hangs(job.name, self._stop_s)
        try:
            self._take_on(job, network)
        except EdgetrtError:
            self._take_on(post.job, None)
            raise

    def _dismiss(self, name: str, post: Post | None) -> None:
        if post is not None and not post.end(self._stop_s):
            raise _hangs(name, self._stop_s)
        with self._guard:
            self._posts.pop(name, None)


def _first(job: Job, frames: int | None) -> Post:
    try:
        return Post(job, frames)
    except EdgetrtError as error:
        return Post(replace(job, hire=partial(unfit, job.name, error)), frames)


def _hangs(name: str, within_s: float) -> EdgetrtError:
    return EdgetrtError(
        f"pipeline {name!r}: it did not end within {within_s:g} s",
        "The watchdog ends the process when it hangs for good.",
    )


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


def _anew(post: Post, job: Job) -> bool:
    """Whether a pipeline must be begun again for its job."""
    if post.stop.is_set():  # it was told to end before, and was too slow
        return True
    return post.failed or post.job.parts != job.parts or (post.over and post.job != job)


def _swaps(post: Post, job: Job) -> bool:
    """Whether another network, and nothing but the rate besides, is all that changes."""
    return not _anew(post, job) and not post.over and post.job.network != job.network


def _turn(post: Post | None, job: Job | None) -> int:
    """Swaps first, then ends, then beginnings."""
    if job is None:
        return 1
    return 2 if post is None or _anew(post, job) else 0
