"""Trust in a process that lives while somebody asks it: the agent stays small between two updates.

What verifies metadata and signatures (TUF and its cryptography) is a fourth of the agent's memory, and is
wanted for a second now and then. That process has no network of its own: the files that it asks for are
read here, from the same origins as releases, a piece at a time and no further than it wants.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

import msgspec

from edgetrt import errors
from edgetrt.children import PARENT
from edgetrt.errors import EdgetrtError, UnreachableError
from edgetrt.update.desired import Desired
from edgetrt.update.origin import Origin
from edgetrt.update.ports import Trusted

_WORKER = (sys.executable, "-m", "edgetrt.agent.trust_worker")
_HEAD_BYTES = 4


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
        reads, writes: its two ends here.
    """

    def __init__(self, reads: IO[bytes], writes: IO[bytes]) -> None:
        self._reads, self._writes = reads, writes

    def send(self, message: Message) -> None:
        """Send one.

        Raises:
            OSError: the other side is gone.
        """
        data = msgspec.msgpack.encode(message)
        self._writes.write(len(data).to_bytes(_HEAD_BYTES, "big") + data)
        self._writes.flush()

    def receive(self) -> Message:
        """Wait for the next.

        Raises:
            EOFError: the other side is gone.
        """
        size = int.from_bytes(self._read(_HEAD_BYTES), "big")
        message: Message = _DECODER.decode(self._read(size))
        return message

    def _read(self, size: int) -> bytes:
        data = self._reads.read(size)
        if len(data) < size:
            raise EOFError
        return data


class TrustProcess:
    """`Trusting` by asking that process, which is started when it is needed. For one thread.

    Args:
        folder: of what is trusted.
        root: the first root metadata.
        trust_clock: a person vouches for the clock.
        command: what is started.
    """

    def __init__(
        self, folder: Path, root: bytes, trust_clock: bool, command: Sequence[str] = _WORKER
    ) -> None:
        self._opening = Open(str(folder), root, trust_clock)
        self._command = command
        self._origins: Mapping[str, Origin] = {}
        self._process: subprocess.Popen[bytes] | None = None
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
        process = self._process
        if process is not None and time.monotonic() - self._used_s >= idle_s:
            self._process = None
            process.kill()
            process.communicate()

    def _ask(self, question: Message) -> Done:
        """Ask, and read files for it until it answers.

        Raises:
            EdgetrtError: its answer, or that it died.
            OSError: its answer: the disk.
        """
        try:
            answer = self._serve(question)
        except (EOFError, BrokenPipeError):
            self.rest(0.0)
            raise UnreachableError(
                "the process that verifies updates ended before it answered",
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
        begins = self._process is None
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, PARENT: str(os.getpid())},
            )
        reads, writes = self._process.stdout, self._process.stdin
        assert reads is not None and writes is not None  # noqa: S101 - both are pipes
        pipe = Pipe(reads, writes)
        if begins:
            pipe.send(self._opening)
        return pipe

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
