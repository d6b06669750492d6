"""Keeps one pipeline running: opens its parts, and opens them again when they fail."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, NoReturn

from edgetrt import journal
from edgetrt.backoff import full_jitter_s
from edgetrt.clock import SystemClock
from edgetrt.errors import ConfigError, CudaError, EdgetrtError, ModelError, SinkError
from edgetrt.ports import Recorder
from edgetrt.runtime.meter import Meter
from edgetrt.runtime.pipeline import Pipeline
from edgetrt.runtime.shadow import Agreement, shadow
from edgetrt.runtime.tap import ResultTap
from edgetrt.runtime.tuning import Tuning, tuned
from edgetrt.types import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgetrt.config import PipelineSettings
    from edgetrt.ports import Clock, Sink, Source
    from edgetrt.runtime.network import Network

log = logging.getLogger(__name__)

FIRST_S, LAST_S = 0.5, 30.0
"""Back-off before a restart: up to `FIRST_S`, doubling up to `LAST_S`."""

_GLANCE_S = 0.1
"""How often a swap that waits looks whether its pipeline still runs."""

STEADY_FRAMES = 100
"""Results after which a restarted pipeline counts as well again."""


class Supervisor:
    """One pipeline's life: open, run, and after a failure back off and start over.

    Args:
        name: of the pipeline.
        open_source: gives a fresh source each time.
        open_network: gives a freshly loaded network each time.
        sinks: get every result; closed at the end.
        meter: counts over all restarts.
        clock: time.
        rate_hz: what its file asks for; None = as fast as frames come.

    Attributes:
        opened: how often source and network were opened.
        engine: fingerprint of the network that it has, also while its source is away; empty before the
            first.
        tap: gives its next result to who asks.
        limited: what it may use, whoever asks for more.
    """

    def __init__(
        self,
        *,
        name: str,
        open_source: Callable[[], Source],
        open_network: Callable[[], Network],
        sinks: Sequence[Sink],
        meter: Meter,
        clock: Clock,
        rate_hz: float | None = None,
    ) -> None:
        self.meter = meter
        self.pipeline: Pipeline | None = None
        self.fatal: CudaError | None = None
        self.opened = 0
        self.engine = ""
        self._name = name
        self._open_source = open_source
        self._open_network = open_network
        self.tap = ResultTap()
        self._sinks = (*sinks, self.tap)
        self._clock = clock
        self.limited, self._demand_hz = Grant(), rate_hz
        self._tuning = Tuning(meter)
        self._enabled, self._hurry = threading.Event(), threading.Event()
        self._enabled.set()
        self._changing = threading.Lock()
        self._ready: Network | None = None
        self._over = False

    @property
    def granted(self) -> Grant:
        """What it may use now: what settings from afar or else its file ask for, within the limit."""
        rate_hz = self._tuning.settings.rate_hz
        return self.limited.for_demand(self._demand_hz if rate_hz is None else rate_hz)

    @property
    def lost(self) -> int:
        """Results that its sinks could not keep."""
        return sum(sink.lost for sink in self._sinks if isinstance(sink, Recorder))

    def limit(self, grant: Grant) -> None:
        """Let the pipeline use no more than that, whoever asks for it, now and after restarts."""
        self.limited = grant
        self._hand_on_grant()

    def demand(self, rate_hz: float | None) -> None:
        """Change what its file asks for."""
        self._demand_hz = rate_hz
        self._hand_on_grant()

    def _hand_on_grant(self) -> None:
        pipeline = self.pipeline
        if pipeline is not None:
            pipeline.grant = self.granted

    def settle(self, generation: int, settings: PipelineSettings) -> None:
        """Put settings from afar into force, now and after restarts; the meter tells what came of it."""
        if not self._tuning.settle(generation, settings):
            return
        self._hand_on_grant()
        with self._changing:
            if settings.enabled is not False:
                self._enabled.set()
                return
            self._enabled.clear()
            if self.pipeline is not None:
                self.pipeline.leave.set()

    def reopen(self) -> bool:
        """Close source and network and open them again; False when the pipeline is over for good."""
        with self._changing:
            self._hurry.set()
            if self.pipeline is not None:
                self.pipeline.leave.set()
            return not self._over

    def shadow(self, network: Network, frames: int, within_s: float) -> Agreement:
        """Let another network look at this pipeline's frames, with the limits that are in force here.

        See `runtime.shadow.shadow`.

        Raises:
            InferenceError: it does not answer.
        """
        try:
            task = tuned(network.task, self._tuning.settings)
        except ConfigError:  # limits that it cannot do would be left out of it, too
            task = network.task
        return shadow(network, task, self.tap.next, frames, within_s)

    def swap(self, network: Network, timeout_s: float) -> bool:
        """Give the pipeline another network between two frames; False when it did not take it.

        One that is being opened, or waits to be opened again, takes it then.
        """
        with self._changing:
            pipeline = self.pipeline
            spare = network if self._over else self._ready
            if pipeline is None and not self._over:
                self._ready, self.engine = network, network.fingerprint
        if pipeline is not None:
            return self._swap_running(pipeline, network, timeout_s)
        if spare is not None:
            spare.close()
        return spare is not network

    def _swap_running(self, pipeline: Pipeline, network: Network, timeout_s: float) -> bool:
        """Wait for the frame boundary; a pipeline that failed before it opens the new network itself."""
        done = pipeline.swap(network)
        deadline = time.monotonic() + timeout_s
        while not done.wait(_GLANCE_S) and time.monotonic() < deadline:
            if self.pipeline is not pipeline:
                break
        taken = done.is_set() or not pipeline.withdraw(done) or self._opens_again(pipeline)
        if taken:
            self.engine = network.fingerprint
        return taken

    def _opens_again(self, pipeline: Pipeline) -> bool:
        with self._changing:
            return self.pipeline is not pipeline and not self._over

    def run(self, stop: threading.Event, frames: int | None = None) -> None:
        """Keep the pipeline running until `stop`, its source's end, or an error that no retry mends."""
        journal.note(pipeline=self._name)
        attempt = 0
        try:
            while not stop.is_set() and (rest := self._rest(frames)) != 0:
                if not self._enabled.is_set():
                    self._stand_still(stop)
                    continue
                before = self.meter.counters.done
                try:
                    if self.run_once(stop, rest):
                        continue
                    break
                except (ConfigError, ModelError, SinkError) as error:
                    self._fail(error)
                    return
                except EdgetrtError as error:
                    failure = error
                except Exception as error:  # a thread that died unseen would look like one at work
                    log.debug("pipeline %s", self._name, exc_info=True)
                    failure = EdgetrtError(f"internal error: {type(error).__name__}: {error}")
                if isinstance(failure, CudaError) and failure.fatal:
                    self._give_up(failure, stop)
                    return
                attempt = 0 if self.meter.counters.done - before > STEADY_FRAMES else attempt
                self._back_off(failure, attempt, stop)
                attempt += 1
            self.meter.state = "ended"
        finally:
            self.close()

    def close(self) -> None:
        """Let the sinks finish what they have, and free a network that waits for its turn."""
        with self._changing:
            self._over = True
            spare, self._ready = self._ready, None
        if spare is not None:
            spare.close()
        for sink in self._sinks:
            sink.close()

    def run_once(self, stop: threading.Event, frames: int | None = None) -> bool:
        """Open everything and run to the end of the source; sinks stay open.

        Returns:
            True when it was told to leave before that.

        Raises:
            EdgetrtError: whatever went wrong first.
        """
        self.meter.state = "starting"
        self._hurry.clear()
        network = self._take_ready() or self._open_network()
        self.engine = network.fingerprint
        try:
            source = self._open_source()
        except BaseException:
            network.close()
            raise
        pipeline, network = self._join(network, source)
        self.meter.backend, self.meter.engine = network.backend, network.fingerprint
        self.meter.state, self.meter.error = "running", ""
        journal.note(engine=network.fingerprint)
        log.info("pipeline %s runs on %s", self._name, network.backend)
        self.opened += 1
        try:
            pipeline.run(stop, frames)
        finally:
            self.pipeline = None
            source.close()
        return pipeline.leave.is_set()

    def _take_ready(self) -> Network | None:
        with self._changing:
            network, self._ready = self._ready, None
        return network

    def _join(self, network: Network, source: Source) -> tuple[Pipeline, Network]:
        """Make the pipeline, with a network that came while another was being loaded."""
        with self._changing:
            newer, self._ready = self._ready, None
            taken = newer or network
            pipeline = Pipeline(
                name=self._name,
                source=source,
                network=taken,
                sinks=self._sinks,
                meter=self.meter,
                clock=self._clock,
                grant=self.granted,
                tuning=self._tuning,
            )
            self.pipeline, self.engine = pipeline, taken.fingerprint
            if not self._enabled.is_set():  # told so while this was being opened
                pipeline.leave.set()
        pipeline.grant = self.granted  # one that came in the meantime
        if newer is not None:
            network.close()
        return pipeline, taken

    def _rest(self, frames: int | None) -> int | None:
        """Of so many frames, those not looked at yet; restarts do not begin the count anew."""
        now = self.meter.counters
        return None if frames is None else max(0, frames - now.done - now.refused)

    def _fail(self, error: EdgetrtError) -> None:
        self.meter.state, self.meter.error = "failed", error.message
        log.error("pipeline %s: %s", self._name, error.in_line)

    def _give_up(self, error: CudaError, stop: threading.Event) -> None:
        """The process's CUDA context is gone, and with it every pipeline's: only a new process helps."""
        self._fail(error)
        self.fatal = error
        stop.set()

    def _back_off(self, error: EdgetrtError, attempt: int, stop: threading.Event) -> None:
        pause = full_jitter_s(attempt, FIRST_S, LAST_S, random.random())  # noqa: S311 - spreads load, guards nothing
        self.meter.state, self.meter.error = "backoff", error.message
        self.meter.count(restarts=1)
        log.warning("pipeline %s: %s; again in %.1f s", self._name, error.message, pause)
        until = time.monotonic() + pause
        while not stop.is_set() and (left_s := until - time.monotonic()) > 0:
            if self._hurry.wait(min(_GLANCE_S, left_s)):
                break

    def _stand_still(self, stop: threading.Event) -> None:
        """Wait until it may run again; source and network are closed."""
        self.meter.state, self.meter.error = "stopped", ""
        while not stop.is_set() and not self._enabled.wait(_GLANCE_S):
            pass


def unfit(name: str, error: EdgetrtError, _: object = None) -> Supervisor:
    """A pipeline that cannot be put together: it fails with that error when it runs."""

    def fail() -> NoReturn:
        raise error

    clock = SystemClock()
    return Supervisor(
        name=name,
        open_source=fail,
        open_network=fail,
        sinks=(),
        meter=Meter(name, clock),
        clock=clock,
    )
