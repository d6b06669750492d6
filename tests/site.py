"""The broker of a site, as `services/mosquitto` sets it up, with an authority of its own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt.config import BrokerConfig
from tests.authority import Authority, Credentials
from tests.broker import MOSQUITTO, free_port

FILES = Path(__file__).parents[1] / "services" / "mosquitto"
CONTROLLER, HOME_ASSISTANT = "edgetrt.controller", "edgetrt.homeassistant"


class Site:
    """mosquitto with the files of `services/mosquitto`; only places and the port differ.

    Args:
        folder: for its files.
        lines: of the configuration, in place of those with the same key.
    """

    def __init__(self, folder: Path, *lines: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.authority = Authority(folder / "ca")
        self._server = self.authority.issue(
            "broker", hosts=("127.0.0.1", "localhost"), file="server", server=True
        )
        self._config = folder / "mosquitto.conf"
        self._config.write_text(self._written(lines))
        self._process: subprocess.Popen[bytes] | None = None

    def _written(self, lines: tuple[str, ...]) -> str:
        text = (FILES / "edgetrt.conf").read_text()
        for there, here in {
            "/etc/mosquitto/certs/ca.crt": self.authority.ca,
            "/etc/mosquitto/certs/server.crt": self._server.cert,
            "/etc/mosquitto/certs/server.key": self._server.key,
            "/etc/mosquitto/edgetrt.acl": FILES / "edgetrt.acl",
            "listener 8883": f"listener {self.port} 127.0.0.1",
        }.items():
            assert there in text, there
            text = text.replace(there, str(here))
        replaced = {line.split()[0] for line in lines}
        rows = [row for row in text.splitlines() if not {*row.split()[:1]} & replaced]
        own = [f"persistence_location {self.folder}/", "user root"]
        return "\n".join([*rows, *lines, *own]) + "\n"

    def start(self) -> None:
        """Start, and return when it accepts connections."""
        assert MOSQUITTO is not None
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise RuntimeError(self.log())

    def stop(self) -> None:
        """End it as systemd does: it writes down what it holds."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def log(self) -> str:
        """What it has said."""
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def credentials(self, name: str) -> Credentials:
        """Those of a client, signed by the site's authority."""
        made = Credentials(
            self.authority.folder / f"{name}.crt", self.authority.folder / f"{name}.key"
        )
        return made if made.cert.exists() else self.authority.issue(name)

    def client(self, name: str, port: int | None = None) -> BrokerConfig:
        """How the agent of a device connects."""
        mine = self.credentials(name)
        return BrokerConfig(
            host="127.0.0.1",
            port=port or self.port,
            ca_file=str(self.authority.ca),
            cert_file=str(mine.cert),
            key_file=str(mine.key),
            keepalive_s=5,
        )

    def context(self, name: str) -> ssl.SSLContext:
        """TLS for a client that is none of ours."""
        mine = self.credentials(name)
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        context.load_cert_chain(mine.cert, mine.key)
        return context


@contextlib.contextmanager
def site(folder: Path, *lines: str) -> Iterator[Site]:
    """A started `Site`, stopped at the end."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    made = Site(folder, *lines)
    made.start()
    try:
        yield made
    finally:
        made.stop()
