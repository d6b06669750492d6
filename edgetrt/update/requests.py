"""What a person asks of the machine from another process: a small file that is taken once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import msgspec

from edgetrt.errors import UpdateError
from edgetrt.update import durable
from edgetrt.update.record import Offer


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One wish; `digest` is the release that it is about, `offer` what an import brought."""

    what: Literal["abort", "rollback", "import"]
    digest: str
    offer: Offer | None = None


_DECODER = msgspec.json.Decoder(Request)

MARK = "taken-back"
"""File in the folder of updates: digest of the release that the guard took back, because the runtime
kept dying with it."""


class Requests:
    """The file, and the guard's mark beside it.

    Args:
        folder: of updates.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._mark = folder / "request.json", folder / MARK

    def ask(self, request: Request) -> None:
        """Leave a wish; it takes the place of one before."""
        durable.replace(self._path, msgspec.json.encode(request))

    def any(self) -> bool:
        """Whether there is something to be seen to; cheap enough to be asked all the time."""
        return self._path.exists() or self._mark.exists()

    def pending(self) -> Request | None:
        """The wish, when there is one; what is none is removed.

        Raises:
            UpdateError: it cannot be read.
        """
        try:
            return _DECODER.decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            self.clear()
            return None
        except OSError as error:
            raise UpdateError(
                f"{self._path}: cannot be read: {error.strerror}",
                "Ask as the service's user (sudo -u edgetrt …), or remove the file.",
                "state",
            ) from error

    def clear(self) -> None:
        """It has been seen to."""
        self._path.unlink(missing_ok=True)

    def taken_back(self) -> str:
        """Digest of the release that the guard took back; empty when there is none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._mark.read_text("ascii").strip()
        return ""

    def forget_mark(self) -> None:
        """It has been seen to; the guard may take the same release back again."""
        self._mark.unlink(missing_ok=True)
