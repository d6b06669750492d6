"""One slot between a live source and the loop: the newest frame wins."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from edgetrt.ports import EndOfStream

if TYPE_CHECKING:
    from edgetrt.ports import Source
    from edgetrt.types import Frame


class Newest:
    """A source read by its own thread, so that a slow loop sees the present and not a queue of the past.

    A frame that is overwritten shows as a gap in `Frame.seq`, which is what the loop counts.
    """

    live = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._filled = threading.Condition()
        self._slot: Frame | None = None
        self._ended: Exception | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._pull, name="source", daemon=True)
        self._thread.start()

    @property
    def reconnects(self) -> int:
        """As the source counts them."""
        return self._source.reconnects

    def read(self, timeout_s: float) -> Frame | None:
        """Take the newest frame; raises what ended the source once the slot is empty."""
        with self._filled:
            self._filled.wait_for(lambda: self._slot is not None or self._ended, timeout_s)
            frame, self._slot = self._slot, None
            if frame is None and self._ended is not None:
                raise self._ended
            return frame

    def close(self) -> None:
        """End the thread, then the source."""
        self._closing.set()
        self._source.close()
        self._thread.join(timeout=5.0)

    def _pull(self) -> None:
        while not self._closing.is_set():
            try:
                frame = self._source.read(timeout_s=0.5)
            except Exception as error:  # noqa: BLE001 - the reader raises it; unseen, it would wait for ever
                ended: Exception = error
                break
            if frame is not None:
                with self._filled:
                    self._slot = frame
                    self._filled.notify()
        else:
            ended = EndOfStream()
        with self._filled:
            self._ended = ended
            self._filled.notify()
