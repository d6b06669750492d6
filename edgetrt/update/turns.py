"""Whose turn it is: everybody gets as much as everybody else, and nobody more than their rate."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_NAMES = 4096
"""Devices at a time: where the broker checks no names, they can be invented."""


class _Queue(Generic[T]):
    """What one device waits for, and from when on it may have more."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[T, int, float]] = deque()
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

    def put(self, device: str, request: T, nbytes: int, until_s: float = math.inf) -> bool:
        """Take note of a request that costs so many bytes, and of when nobody waits for it any more.

        Returns:
            False = this device has too many, or there are too many devices.
        """
        queue = self._queues.get(device)
        if queue is None:
            if len(self._queues) >= MOST_NAMES:
                return False
            queue = self._queues[device] = _Queue()
        if len(queue.waiting) >= self._most:
            return False
        queue.waiting.append((request, nbytes, until_s))
        return True

    def take(self, now_s: float) -> tuple[str, T] | float | None:
        """The next request and whose it is, or in how many seconds there is one; None = none waits."""
        soonest, idle, found = math.inf, list[str](), None
        for device, queue in self._queues.items():
            while queue.waiting and queue.waiting[0][2] <= now_s:
                queue.waiting.popleft()
            if queue.ready_s > now_s:
                if queue.waiting:
                    soonest = min(soonest, queue.ready_s)
            elif queue.waiting:
                found = device, queue
                break
            else:
                idle.append(device)
        for device in idle:
            del self._queues[device]
        if found is not None:
            return found[0], self._serve(*found, now_s)
        return None if soonest == math.inf else soonest - now_s

    def _serve(self, device: str, queue: _Queue[T], now_s: float) -> T:
        request, nbytes, _ = queue.waiting.popleft()
        if self._bytes_s:
            queue.ready_s = max(queue.ready_s, now_s) + nbytes / self._bytes_s
        self._queues.move_to_end(device)
        return request
