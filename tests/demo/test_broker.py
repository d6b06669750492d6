from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgetrt.demo.broker import Broker
from edgetrt.errors import TransportError
from tests.broker import MOSQUITTO


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_it_listens_on_loopback_for_as_long_as_it_is_needed(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        socket.create_connection(("127.0.0.1", broker.port), timeout=10).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", broker.port), timeout=10)


def test_without_mosquitto_it_says_what_to_install(tmp_path: Path) -> None:
    with (
        pytest.raises(TransportError, match="not installed") as caught,
        Broker(tmp_path, "no-such-broker"),
    ):
        pass
    assert "apt-get install mosquitto" in caught.value.hint


def test_one_that_does_not_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "broker"
    program.write_text("#!/bin/sh\necho 'Error: no room for a broker' >&2\nexit 3\n")
    program.chmod(0o755)
    with (
        pytest.raises(TransportError, match="no room for a broker"),
        Broker(tmp_path, str(program)),
    ):
        pass
