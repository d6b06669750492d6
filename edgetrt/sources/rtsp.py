"""Network cameras over RTSP.

    RtspSource(address, rtsp_transport="tcp", timeout_s=5.0)

| option | meaning |
|---|---|
| `rtsp_transport` | `tcp` (default; crosses firewalls, loses nothing) or `udp` |
| `timeout_s` | connecting, and any silence, may take this long before the stream counts as lost |

A thread of its own connects and decodes, because connecting can take longer than any `read` may, and a
camera that nobody reads must be drained or its pictures come late. One slot lies between: the newest
picture wins, and a gap in `seq` tells of those that nobody took.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Literal

from edgetrt.backoff import full_jitter_s
from edgetrt.errors import SourceError, SourceLostError
from edgetrt.ports import EndOfStream
from edgetrt.sources.decode import Decoder
from edgetrt.sources.uri import redact
from edgetrt.types import Frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_JOIN_S = 1.0


class RtspSource:
    """The newest picture of an RTSP stream; reconnects by itself when the stream is lost.

    Args:
        address: `rtsp://` or `rtsps://`, with user name and password when the camera wants them.
        rtsp_transport: how the pictures travel.
        timeout_s: limit for connecting and for silence.
        retry_s: upper limit of the first pause before reconnecting, and of any pause.

    Raises:
        SourceError: the first connection failed: refused, no answer, credentials, no such stream.
    """

    def __init__(
        self,
        address: str,
        *,
        rtsp_transport: Literal["tcp", "udp"] = "tcp",
        timeout_s: float = 5.0,
        retry_s: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        self._address = address
        self._name = redact(address)
        self._transport = rtsp_transport
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._closed = threading.Event()
        self._fresh = threading.Condition()
        self._slot: Frame | None = None
        self._failure: Exception | None = None
        self._seq = 0
        self._reconnects = 0
        self._corrupt = 0
        decoder = self._connect()
        self._thread = threading.Thread(
            target=self._run, args=(decoder,), name="edgetrt-rtsp", daemon=True
        )
        self._thread.start()

    @property
    def live(self) -> bool:
        """Always: what nobody reads is lost."""
        return True

    @property
    def reconnects(self) -> int:
        """How often the stream was lost and delivered again."""
        return self._reconnects

    @property
    def corrupt(self) -> int:
        """Packets and pictures that were damaged and skipped."""
        return self._corrupt

    def read(self, timeout_s: float) -> Frame | None:
        """Return the newest frame that was not returned before, or None.

        Raises:
            EndOfStream: it was closed.
            SourceLostError: the receiving thread failed for a reason that reconnecting does not cure.
        """
        with self._fresh:
            self._fresh.wait_for(self._something, timeout_s)
            if self._closed.is_set():
                raise EndOfStream
            if self._failure is not None:
                raise SourceLostError(f"{self._name}: {self._failure}") from self._failure
            frame, self._slot = self._slot, None
            return frame

    def close(self) -> None:
        """Disconnect; a thread inside a silent connection ends at its timeout."""
        self._closed.set()
        with self._fresh:
            self._fresh.notify_all()
        self._thread.join(_JOIN_S)

    def _something(self) -> bool:
        return self._slot is not None or self._failure is not None or self._closed.is_set()

    def _connect(self) -> Decoder:
        return Decoder(
            self._address,
            self._name,
            options={
                "rtsp_transport": self._transport,
                "timeout": str(round(self._timeout_s * 1e6)),
                "flags": "low_delay",
                "fpsprobesize": "0",  # measuring the rate alone would delay the first picture by a second
            },
            timeout_s=self._timeout_s,
            threading="SLICE",
        )

    def _run(self, decoder: Decoder) -> None:
        try:
            self._receive(decoder)
        except Exception as error:
            log.exception("%s: receiving failed", self._name)
            with self._fresh:
                self._failure = error
                self._fresh.notify_all()

    def _receive(self, first: Decoder) -> None:
        """Deliver until closed; `attempt` counts failures since the last picture."""
        decoder: Decoder | None = first
        attempt = 0
        while not self._closed.is_set():
            why = "the server ended the stream"
            try:
                decoder = decoder or self._connect()
                for data in decoder.frames():
                    attempt = self._delivered(attempt)
                    self._offer(data, decoder.rate_hz)
                    if self._closed.is_set():
                        break
            except SourceError as error:
                why = error.message
            finally:
                if decoder is not None:
                    self._corrupt += decoder.corrupt
                    decoder.close()
                    decoder = None
            self._pause(attempt, why)
            attempt += 1

    def _delivered(self, attempt: int) -> int:
        """Note that the stream is back when it was away."""
        if attempt:
            self._reconnects += 1
            log.info("%s: back after %d attempts", self._name, attempt)
        return 0

    def _pause(self, attempt: int, why: str) -> None:
        pause_s = full_jitter_s(attempt, *self._retry_s, draw=random.random())  # noqa: S311 - no secret
        if not self._closed.is_set():
            level = logging.WARNING if attempt == 0 else logging.DEBUG
            log.log(level, "%s; connecting again in %.1f s", why, pause_s)
        self._closed.wait(pause_s)

    def _offer(self, data: NDArray[np.uint8], rate_hz: float | None) -> None:
        with self._fresh:
            self._slot = Frame(data, "rgb", self._seq, time.monotonic_ns(), rate_hz=rate_hz)
            self._seq += 1
            self._fresh.notify_all()
