"""Whose turn it is: everybody gets as much as everybody else, and nobody more than their rate."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class _Queue(Generic[T]):
    """What one device waits for, and from when on it may have more."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[T, int]] = deque()
        self.ready_s = 0.0


class Turns(Generic[T]):
    """Requests by device, dealt with in turn.

    Args:
        bytes_s: for each device; 0 = as fast as it goes.
        most: requests of a device that wait at a time.
    """

    def __init__(self, bytes_s: float, most: int) -> None:
        self._bytes_s, self._most = bytes_s, most
        self._queues: OrderedDict[str, _Queue[T]] = OrderedDict()

    def put(self, device: str, request: T, nbytes: int) -> bool:
        """Take note of a request that costs so many bytes; False = this device has too many."""
        queue = self._queues.setdefault(device, _Queue())
        if len(queue.waiting) >= self._most:
            return False
        queue.waiting.append((request, nbytes))
        return True

    def take(self, now_s: float) -> tuple[str, T] | float | None:
        """The next request and whose it is, or in how many seconds there is one; None = none waits."""
        soonest: float | None = None
        for device, queue in list(self._queues.items()):
            if queue.ready_s > now_s:
                if queue.waiting:
                    soonest = min(soonest or queue.ready_s, queue.ready_s)
            elif queue.waiting:
                return device, self._serve(device, queue, now_s)
            else:
                del self._queues[device]
        return None if soonest is None else soonest - now_s

    def _serve(self, device: str, queue: _Queue[T], now_s: float) -> T:
        request, nbytes = queue.waiting.popleft()
        if self._bytes_s:
            queue.ready_s = max(queue.ready_s, now_s) + nbytes / self._bytes_s
        self._queues.move_to_end(device)
        return request
