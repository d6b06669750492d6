"""A mosquitto of our own, on a free loopback port, for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from edgetrt.errors import TransportError

SBIN = "/usr/sbin:/sbin"
"""Where Debian puts mosquitto, which is on no user's PATH."""


class Broker:
    """Context manager around the process; `port` is where it listens.

    Args:
        folder: an existing folder for its configuration.
        program: its name or path.

    Raises:
        TransportError: mosquitto is not installed, or does not start.
    """

    def __init__(self, folder: Path, program: str = "mosquitto") -> None:
        self._folder = folder
        self._program = program
        self._log = folder / "mosquitto.log"
        self.port = 0

    def __enter__(self) -> Broker:
        program = shutil.which(self._program, path=f"{os.environ.get('PATH', '')}:{SBIN}")
        if program is None:
            raise TransportError(
                f"{self._program} is not installed",
                "Install it (`sudo apt-get install mosquitto`), or name a broker: --broker HOST:PORT.",
            )
        self.port = _free_port()
        config = self._folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 100000\nset_tcp_nodelay true\n"
        )
        self._folder.chmod(0o755)  # started by root, mosquitto reads its file as user mosquitto
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        said = self._log.read_text(errors="replace").strip().splitlines()
        raise TransportError(f"mosquitto does not start: {said[-1] if said else 'no reason given'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
