"""The runtime, as the agent tells and asks it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edgetrt import wire
from edgetrt.asking import reply_name
from edgetrt.errors import EdgetrtError, TransportError
from edgetrt.link import Receiver, Sender

_KEPT = 1000
"""Lines of the agent's own log that are kept in memory."""

_LONGEST = 2000


class Peer:
    """The runtime behind its socket; it may come, go and restart.

    Args:
        path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sender = Sender(path)

    def close(self) -> None:
        """Free the socket."""
        self._sender.close(0.0)

    def tell(self, message: wire.Struct) -> bool:
        """Send a message that needs no answer; False when it did not leave."""
        return self._sender.send(wire.encode(message))

    async def ask(
        self, question: Callable[[str], wire.AskMessage], timeout_s: float
    ) -> wire.AnswerMessage:
        """Ask for something to be done, and wait until it is.

        Args:
            question: made with the name of the socket that the answer goes to.
            timeout_s: how long to wait.

        Raises:
            TransportError: no runtime runs here, or it does not answer.
            EdgetrtError: it was not done.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()
        reply = reply_name()

        def arrived() -> None:
            if not came.done():
                came.set_result(None)

        with Receiver(self._path.with_name(reply)) as inbox:
            loop.add_reader(inbox.fileno(), arrived)
            try:
                if not self.tell(question(reply)):
                    raise TransportError(
                        f"the runtime cannot be asked: {self._sender.reason}", "Is it running?"
                    )
                await asyncio.wait_for(came, timeout_s)
            except asyncio.TimeoutError:
                raise TransportError(
                    f"the runtime did not answer within {timeout_s:g} s", "See its log."
                ) from None
            finally:
                loop.remove_reader(inbox.fileno())
            answer = wire.decode_link(inbox.receive() or b"")
        if not isinstance(answer, wire.AnswerMessage):
            raise TransportError("the runtime answered something else")
        if answer.error:
            raise EdgetrtError(answer.error, answer.hint)
        return answer


class Recent(logging.Handler):
    """The last lines of this process's log, for whoever cannot read the journal."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(self.format(record)[:_LONGEST])

    def lines(self, count: int) -> list[str]:
        """The last lines, so many at most."""
        return list(self._lines)[-count:]
