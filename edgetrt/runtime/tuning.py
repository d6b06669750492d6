"""Settings from afar for one pipeline, over the life of its networks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec

from edgetrt.config import PipelineSettings
from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from edgetrt.runtime.meter import Meter
    from edgetrt.runtime.network import Task

_LIMITS = ("score", "iou", "max_objects", "only")


class Tuning:
    """What decodes the next frame, with the limits that are in force.

    The pipeline reads `task` once for each frame; setting it is one reference swapped.

    Args:
        meter: told what is in force.

    Attributes:
        task: what decodes; None before the first network.
        settings: in force, or to be once there is a network.
    """

    def __init__(self, meter: Meter) -> None:
        self.task: Task | None = None
        self.settings = PipelineSettings()
        self._meter = meter
        self._plain: Task | None = None
        self._lock = threading.Lock()

    def settle(self, generation: int, settings: PipelineSettings) -> bool:
        """Put settings into force; False when the network cannot do them, and nothing has changed."""
        with self._lock:
            try:
                if self._plain is not None:
                    self.task = tuned(self._plain, settings)
            except ConfigError as error:
                self._meter.settled(generation, _said(self.settings), error.message)
                return False
            self.settings = settings
            self._meter.settled(generation, _said(settings))
        return True

    def take(self, plain: Task) -> None:
        """Another network decodes from now on; limits that it cannot do are left out, and told."""
        with self._lock:
            self._plain = plain
            try:
                self.task = tuned(plain, self.settings)
            except ConfigError as error:
                self.task = plain
                without = dict.fromkeys(_LIMITS)
                self.settings = msgspec.structs.replace(self.settings, **without)
                self._meter.settled(None, _said(self.settings), error.message)


def tuned(plain: Task, settings: PipelineSettings) -> Task:
    """A network's task with other limits; the same one when there are none.

    Raises:
        ConfigError: it cannot do them.
    """
    limits = {name: value for name in _LIMITS if (value := getattr(settings, name)) is not None}
    return plain.tuned(**limits) if limits else plain


def _said(settings: PipelineSettings) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return {name: value for name, value in plain.items() if value is not None}
