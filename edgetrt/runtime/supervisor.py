"""Keeps one pipeline running: opens its parts, and opens them again when they fail."""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING

from edgetrt.errors import ConfigError, CudaError, EdgetrtError, ModelError
from edgetrt.runtime.pipeline import Pipeline
from edgetrt.types import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgetrt.ports import Clock, Sink, Source
    from edgetrt.runtime.meter import Meter
    from edgetrt.runtime.network import Network

log = logging.getLogger(__name__)

FIRST_S, LAST_S = 0.5, 30.0
"""Back-off before a restart: up to `FIRST_S`, doubling up to `LAST_S`."""

STEADY_FRAMES = 100
"""Results after which a restarted pipeline counts as well again."""


def backoff_s(attempt: int, draw: float) -> float:
    """Full jitter: anywhere between nothing and the doubling limit; `draw` is uniform in 0..1."""
    return float(draw * min(LAST_S, FIRST_S * 2.0 ** min(attempt, 16)))


class Supervisor:
    """One pipeline's life: open, run, and after a failure back off and start over.

    Args:
        name: of the pipeline.
        open_source: gives a fresh source each time.
        open_network: gives a freshly loaded network each time.
        sinks: get every result; closed at the end.
        meter: counts over all restarts.
        clock: time.
        grant: the rate to begin with.
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
        grant: Grant,
    ) -> None:
        self.meter = meter
        self.pipeline: Pipeline | None = None
        self.fatal: CudaError | None = None
        self._name = name
        self._open_source = open_source
        self._open_network = open_network
        self._sinks = sinks
        self._clock = clock
        self._grant = grant

    def grant(self, grant: Grant) -> None:
        """Change what the pipeline may use, now and after restarts."""
        self._grant = grant
        if self.pipeline is not None:
            self.pipeline.grant = grant

    def swap(self, network: Network, timeout_s: float) -> bool:
        """Give the running pipeline another network between two frames; False when it did not take it."""
        pipeline = self.pipeline
        if pipeline is None:
            network.close()
            return False
        done = pipeline.swap(network)
        return done.wait(timeout_s) or not pipeline.withdraw(done)

    def run(self, stop: threading.Event, frames: int | None = None) -> None:
        """Keep the pipeline running until `stop`, its source's end, or an error that no retry mends."""
        attempt = 0
        try:
            while not stop.is_set() and (rest := self._rest(frames)) != 0:
                before = self.meter.counters.done
                try:
                    self.run_once(stop, rest)
                    break
                except (ConfigError, ModelError) as error:
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
        """Let the sinks finish what they have."""
        for sink in self._sinks:
            sink.close()

    def run_once(self, stop: threading.Event, frames: int | None = None) -> None:
        """Open everything and run to the end of the source; sinks stay open.

        Raises:
            EdgetrtError: whatever went wrong first.
        """
        self.meter.state = "starting"
        network = self._open_network()
        try:
            source = self._open_source()
        except BaseException:
            network.close()
            raise
        self.pipeline = Pipeline(
            name=self._name,
            source=source,
            network=network,
            sinks=self._sinks,
            meter=self.meter,
            clock=self._clock,
            grant=self._grant,
        )
        self.pipeline.grant = self._grant  # one that came in the meantime
        self.meter.backend, self.meter.engine = network.backend, network.fingerprint
        self.meter.state, self.meter.error = "running", ""
        try:
            self.pipeline.run(stop, frames)
        finally:
            self.pipeline = None
            source.close()

    def _rest(self, frames: int | None) -> int | None:
        """Of so many frames, those not looked at yet; restarts do not begin the count anew."""
        now = self.meter.counters
        return None if frames is None else max(0, frames - now.done - now.refused)

    def _fail(self, error: EdgetrtError) -> None:
        self.meter.state, self.meter.error = "failed", error.message
        log.error("pipeline %s: %s %s", self._name, error.message, error.hint)

    def _give_up(self, error: CudaError, stop: threading.Event) -> None:
        """The process's CUDA context is gone, and with it every pipeline's: only a new process helps."""
        self._fail(error)
        self.fatal = error
        stop.set()

    def _back_off(self, error: EdgetrtError, attempt: int, stop: threading.Event) -> None:
        pause = backoff_s(attempt, random.random())  # noqa: S311 - spreads load, guards nothing
        self.meter.state, self.meter.error = "backoff", error.message
        self.meter.count(restarts=1)
        log.warning("pipeline %s: %s; again in %.1f s", self._name, error.message, pause)
        stop.wait(pause)
