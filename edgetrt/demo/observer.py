"""What an independent subscriber saw: counted from the messages alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgetrt import wire
from edgetrt.errors import MessageError


@dataclass
class Observer:
    """Everything that one device published, as an outsider received it.

    Attributes:
        results: result messages.
        objects: objects in them.
        now: objects in the newest.
        health: the newest health message; how many came is `healths`.
        online: what the retained status last said; None before the first.
        malformed: messages that break the contract.
    """

    results: int = 0
    objects: int = 0
    now: int = 0
    healths: int = 0
    health: wire.HealthMessage | None = None
    online: bool | None = None
    malformed: int = 0
    _seen: set[int] = field(default_factory=set)

    def take(self, topic: str, payload: bytes) -> None:
        """Count a message; a repetition of the same result counts once."""
        try:
            address = wire.parse(topic)
            message = wire.decode(address.topic.kind, payload)
        except MessageError:
            self.malformed += 1
            return
        if isinstance(message, wire.ResultMessage):
            self._result(message)
        elif isinstance(message, wire.HealthMessage):
            self.health, self.healths = message, self.healths + 1
        elif isinstance(message, wire.StatusMessage):
            self.online = message.online

    def mean_objects(self) -> float:
        """Objects per result."""
        return self.objects / self.results if self.results else 0.0

    def _result(self, message: wire.ResultMessage) -> None:
        if message.seq in self._seen:
            return
        self._seen.add(message.seq)
        self.now = len(message.objects or ())
        self.results += 1
        self.objects += self.now
