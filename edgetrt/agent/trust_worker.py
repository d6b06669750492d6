"""The process that verifies updates, the other end of `agent.trust_process`.

    python -m edgetrt.agent.trust_worker SOCKET

SOCKET is the number of the open socket over which it is asked.

It ends with the agent, and holds nothing that is not on the disk.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from edgetrt.agent.trust_process import (
    Begun,
    Done,
    Enough,
    Failed,
    Get,
    Message,
    More,
    Open,
    Piece,
    Pipe,
    Refresh,
    Signed,
    Target,
)
from edgetrt.children import follow_parent
from edgetrt.errors import EdgetrtError, TrustError
from edgetrt.update.clock import SystemWallClock
from edgetrt.update.origin import Reply
from edgetrt.update.ports import Trusting
from edgetrt.update.trust import Trust

M = TypeVar("M", Begun, Piece)
_log = logging.getLogger(__name__)


class Agent:
    """Who asks, and reads files; a file that is left in the middle is given up before the next word."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe, self._reading = pipe, False

    def question(self) -> Message:
        """Wait for the next; raises EOFError at the agent's end."""
        return self._pipe.receive()

    def say(self, message: Message) -> None:
        """Send an answer, or ask for a file."""
        if self._reading:
            self._reading = False
            self._pipe.send(Enough())
        self._pipe.send(message)

    def begin(self, asked: Get) -> int:
        """Ask for a file; returns the status of the answer, and raises what kept it away."""
        self.say(asked)
        begun = self._expect(Begun)
        self._reading = True
        return begun.status

    def chunks(self) -> Iterator[bytes]:
        """The file that was begun last."""
        while self._reading:
            self._pipe.send(More())
            data = self._expect(Piece).data
            self._reading = bool(data)
            if data:
                yield data

    def _expect(self, kind: type[M]) -> M:
        """The next message, which is of that kind unless the file is kept away."""
        message = self._pipe.receive()
        if isinstance(message, Failed):
            self._reading = False
            raise message.again()
        return msgspec.convert(message, kind)


class Files:
    """An origin whose files the agent reads.

    Attributes:
        name: for messages.
    """

    def __init__(self, agent: Agent, which: Literal["metadata", "targets"], name: str) -> None:
        self.name = name
        self._agent, self._which = agent, which

    @contextlib.contextmanager
    def get(self, path: str, offset: int = 0) -> Iterator[Reply]:
        """As `Origin.get`, from the first byte on."""
        status = self._agent.begin(Get(self._which, path))
        yield Reply(status, 0, None, self._agent.chunks())


def answer(question: Message, trust: Trusting, agent: Agent) -> Message:
    """Do what is asked for; an error nobody expected is a refusal, not a reason to be asked again."""
    try:
        if isinstance(question, Signed):
            return Done(desired=trust.signed(question.envelope, question.device))
        if isinstance(question, Target):
            return Done(trusted=trust.target(question.path))
        if isinstance(question, Refresh):
            metadata = Files(agent, "metadata", question.metadata)
            trust.refresh(metadata, Files(agent, "targets", question.targets))
        return Done()
    except (EdgetrtError, OSError) as error:
        return Failed.of(error)
    except (EOFError, MemoryError):  # nobody to tell, or no room: the next process may have it
        raise
    except Exception as error:  # noqa: BLE001 - what it chokes on would choke the next one too
        _log.warning("what verifies updates", exc_info=True)
        return Failed.of(
            TrustError(
                f"metadata: {type(error).__name__}: {error}",
                "What is published cannot be read here; the log has where.",
                "metadata",
            )
        )


def main() -> int:
    """Answer until the other side is gone."""
    follow_parent()
    with socket.socket(fileno=int(sys.argv[1])) as end, contextlib.suppress(EOFError):
        agent = Agent(Pipe(end))
        opening = agent.question()
        assert isinstance(opening, Open)  # noqa: S101 - the first message is
        clock = SystemWallClock(opening.trust_clock)
        trust = Trust(Path(opening.folder), opening.root, clock)
        while True:
            agent.say(answer(agent.question(), trust, agent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
