"""The runtime with networks that misbehave in native code: `python -m tests.update.ailing_runtime runtime …`.

A network whose first node is called `leaks` keeps two megabytes of every inference; one called `crashes`
reads address 0 after a while, one called `stumbles` at once. Nothing else differs from `edgetrt runtime`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgetrt.backends import onnxruntime
from edgetrt.cli import main

KEPT = 2 << 20
SOUND = 40
"""Inferences before it crashes."""


class Ailing(onnxruntime.OnnxRuntimeBackend):
    """Loads networks, and lets some of them misbehave."""

    def load(
        self, model: Path, threads: int = 0, shapes: Mapping[str, Any] | None = None
    ) -> onnxruntime.OnnxRuntimeSession:
        session = super().load(model, threads, shapes)
        data = Path(model).read_bytes()
        for name, how in (("leaks", leak), ("crashes", crash), ("stumbles", stumble)):
            if name.encode() in data:
                ail(session, how())
        return session


def ail(session: Any, ailment: Callable[[], None]) -> None:
    infer, twin = session.infer, session.twin

    def worse() -> Any:
        ailment()
        return infer()

    def other() -> Any:
        made = twin()
        ail(made, ailment)
        return made

    session.infer, session.twin = worse, other


def leak() -> Callable[[], None]:
    kept = list[bytearray]()
    return lambda: kept.append(bytearray(b"x") * KEPT)


def crash() -> Callable[[], None]:
    done = list[int]()

    def ailment() -> None:
        done.append(1)
        if len(done) > SOUND:
            ctypes.string_at(0)

    return ailment


def stumble() -> Callable[[], None]:
    def ailment() -> None:
        ctypes.string_at(0)

    return ailment


if __name__ == "__main__":
    onnxruntime.OnnxRuntimeBackend = Ailing  # type: ignore[misc]
    sys.exit(main())
