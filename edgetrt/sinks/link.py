"""The sink that hands results to the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgetrt import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.link import Sender
    from edgetrt.types import Result


def encode_result(result: Result, unsent: int) -> bytes:
    """The datagram of a result; `unsent` = results of its pipeline not taken by the link so far."""
    return wire.encode(wire.result_message(result, unsent))


class LinkSink:
    """Results of one pipeline as datagrams; one that is not taken at once is dropped and counted.

    The sender is shared between pipelines and stays open when the sink is closed.

    Attributes:
        dropped: results of this sink that the link did not take.
    """

    def __init__(
        self, sender: Sender, encode: Callable[[Result, int], bytes] = encode_result
    ) -> None:
        self.dropped = 0
        self._sender = sender
        self._encode = encode

    def put(self, result: Result) -> bool:
        """Send or drop (False)."""
        taken = self._sender.send(self._encode(result, self.dropped))
        self.dropped += not taken
        return taken

    def close(self) -> None:
        """Nothing to finish: datagrams have left or were dropped."""
