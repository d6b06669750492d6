"""Trust in a process that lives while somebody asks it: the agent stays small between two updates.

What verifies metadata and signatures (TUF and its cryptography) is a fourth of the agent's memory, and is
wanted for a second now and then. That process has no network of its own: the files that it asks for are
read here, from the same origins as releases, a piece at a time and no further than it wants. It has a
socket for its answers, apart from what libraries print; one that says too much or nothing is ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edgetrt import errors
from edgetrt.children import PARENT
from edgetrt.errors import EdgetrtError, UnreachableError
from edgetrt.update.desired import Desired
from edgetrt.update.origin import Origin
from edgetrt.update.ports import Trusted

_WORKER = (sys.executable, "-m", "edgetrt.agent.trust_worker")
_HEAD_BYTES = 4
_MOST_BYTES = 8 << 20
"""Of one message; the longest are pieces of files, 256 KiB, and what a release says of itself."""
_SILENT_S = 60.0
"""For how long it may say nothing, or not listen; a second is usual."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """The first message: what it makes its trust from."""

    folder: str
    root: bytes
    trust_clock: bool


class Refresh(msgspec.Struct, frozen=True, tag=True):
    """Asks for `Trusting.refresh`, from origins of these names."""

    metadata: str
    targets: str


class Signed(msgspec.Struct, frozen=True, tag=True):
    """Asks for `Trusting.signed`."""

    envelope: bytes
    device: str


class Target(msgspec.Struct, frozen=True, tag=True):
    """Asks for `Trusting.target`."""

    path: str


class Get(msgspec.Struct, frozen=True, tag=True):
    """It asks for a file of an origin."""

    origin: Literal["metadata", "targets"]
    path: str


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The file's answer begins, with its status."""

    status: int


class More(msgspec.Struct, frozen=True, tag=True):
    """It wants the next piece."""


class Enough(msgspec.Struct, frozen=True, tag=True):
    """It wants no more of this file."""


class Piece(msgspec.Struct, frozen=True, tag=True):
    """A piece of the file; an empty one lies behind its end."""

    data: bytes


class Done(msgspec.Struct, frozen=True, tag=True):
    """It has done what it was asked for."""

    desired: Desired | None = None
    trusted: Trusted | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """An error of ours or of the disk, on its way to the other side."""

    kind: str
    args: tuple[str | int | None, ...]

    @classmethod
    def of(cls, error: EdgetrtError | OSError) -> Failed:
        """Of an error."""
        if isinstance(error, OSError):
            name = error.filename
            return cls("OSError", (error.errno, error.strerror, name and os.fsdecode(name)))
        kind, args = error.__reduce__()
        return cls(kind.__name__, tuple(map(str, args)))

    def again(self) -> Exception:
        """The same error here."""
        kind: type[Exception] = OSError if self.kind == "OSError" else getattr(errors, self.kind)
        return kind(*self.args)


Message = Open | Refresh | Signed | Target | Get | Begun | More | Enough | Piece | Done | Failed
_DECODER = msgspec.msgpack.Decoder(Message)


class Pipe:
    """Messages both ways.

    Args:
        end: of a pair of sockets, the one here; its timeout is how long the other side may be silent.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: Message) -> None:
        """Send one.

        Raises:
            EOFError: the other side is gone, or does not listen.
        """
        data = msgspec.msgpack.encode(message)
        try:
            self._end.sendall(len(data).to_bytes(_HEAD_BYTES, "big") + data)
        except OSError as error:
            raise _gone(error) from error

    def receive(self) -> Message:
        """Wait for the next.

        Raises:
            EOFError: the other side is gone, is silent, or sends what is no message.
        """
        size = int.from_bytes(self._read(_HEAD_BYTES), "big")
        if size > _MOST_BYTES:
            raise EOFError(f"sent {size} bytes, at most {_MOST_BYTES} are a message")
        try:
            message: Message = _DECODER.decode(self._read(size))
        except msgspec.MsgspecError as error:
            raise EOFError(f"sent what is no message: {error}") from error
        return message

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self._end.recv(size - len(data))
            except OSError as error:
                raise _gone(error) from error
            if not piece:
                raise EOFError(_ENDED)
            data += piece
        return bytes(data)


_ENDED = "ended before it answered"


def _gone(error: OSError) -> EOFError:
    return EOFError("said nothing for too long" if isinstance(error, TimeoutError) else _ENDED)


class TrustProcess:
    """`Trusting` by asking that process, which is started when it is needed. For one thread.

    Args:
        folder: of what is trusted.
        root: the first root metadata.
        trust_clock: a person vouches for the clock.
        command: what is started; gets the number of its socket as the last argument.
        silent_s: for how long it may say nothing.
    """

    def __init__(
        self,
        folder: Path,
        root: bytes,
        trust_clock: bool,
        command: Sequence[str] = _WORKER,
        silent_s: float = _SILENT_S,
    ) -> None:
        self._opening = Open(str(folder), root, trust_clock)
        self._command, self._silent_s = command, silent_s
        self._origins: Mapping[str, Origin] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._used_s = 0.0

    def refresh(self, metadata: Origin, targets: Origin) -> None:
        """As `Trusting.refresh`."""
        self._origins = {"metadata": metadata, "targets": targets}
        self._ask(Refresh(metadata.name, targets.name))

    def signed(self, envelope: bytes, device: str) -> Desired:
        """As `Trusting.signed`."""
        return msgspec.convert(self._ask(Signed(envelope, device)).desired, Desired)

    def target(self, path: str) -> Trusted:
        """As `Trusting.target`."""
        return msgspec.convert(self._ask(Target(path)).trusted, Trusted)

    def rest(self, idle_s: float) -> None:
        """As `Trusting.rest`: end that process. What it holds is on the disk, or is fetched again."""
        process, pipe = self._process, self._pipe
        if process and pipe and time.monotonic() - self._used_s >= idle_s:
            self._process = self._pipe = None
            process.kill()
            pipe.close()
            process.wait()

    def _ask(self, question: Message) -> Done:
        """Ask, and read files for it until it answers.

        Raises:
            EdgetrtError: its answer, or that it died or had to be ended.
            OSError: its answer: the disk.
        """
        try:
            answer = self._serve(question)
        except EOFError as error:
            self.rest(0.0)
            raise UnreachableError(
                f"the process that verifies updates {error}",
                "It is started again; the log has its last words.",
                "verifier",
            ) from None
        except BaseException:  # in the middle of a file, perhaps: nobody knows where it is
            self.rest(0.0)
            raise
        self._used_s = time.monotonic()
        if isinstance(answer, Failed):
            raise answer.again()
        return answer

    def _serve(self, question: Message) -> Done | Failed:
        pipe = self._open()
        pipe.send(question)
        while not isinstance(message := pipe.receive(), (Done, Failed)):
            if isinstance(message, Get):
                self._read(pipe, message)
        return message

    def _open(self) -> Pipe:
        if self._pipe is None:
            try:
                self._process, self._pipe = self._start()
            except OSError as error:  # no fault of this disk: the next attempt may have room
                raise UnreachableError(
                    f"the process that verifies updates cannot be started: {error.strerror or error}",
                    "It is tried again; look at memory, processes and open files.",
                    "verifier",
                ) from error
            self._pipe.send(self._opening)
        return self._pipe

    def _start(self) -> tuple[subprocess.Popen[bytes], Pipe]:
        ours, theirs = socket.socketpair()
        ours.settimeout(self._silent_s)
        with theirs, contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what libraries print goes to the log
                pass_fds=[theirs.fileno()],
                env={**os.environ, PARENT: str(os.getpid())},
            )
            failed.pop_all()
        return process, Pipe(ours)

    def _read(self, pipe: Pipe, asked: Get) -> None:
        """Hand it one file, as far as it wants it."""
        try:
            with self._origins[asked.origin].get(asked.path) as reply:
                pipe.send(Begun(reply.status))
                chunks = iter(reply.chunks)
                while isinstance(pipe.receive(), More):
                    pipe.send(Piece(data := next(chunks, b"")))
                    if not data:
                        return
        except EdgetrtError as error:
            pipe.send(Failed.of(error))
