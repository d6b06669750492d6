"""The one step that blocks: name look-up, TCP and TLS, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


async def in_thread(step: Callable[[], object], abandoned: Callable[[], None]) -> None:
    """Run a blocking step in a thread that nothing waits for at exit.

    The loop's own executor would be joined when the loop ends, and a name look-up can take long.
    `abandoned` is called when the step ends and its caller has gone.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: Exception | None) -> None:
        if done.cancelled():
            abandoned()
        elif error is not None:
            done.set_exception(error)
        else:
            done.set_result(None)

    def run() -> None:
        outcome: Exception | None = None
        try:
            step()
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            outcome = error
        try:
            loop.call_soon_threadsafe(finish, outcome)
        except RuntimeError:  # the loop is closed
            abandoned()

    threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
    await done
