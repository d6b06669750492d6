"""`edgetrt command` against an agent and a runtime over a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrt import wire
from tests.agent.test_remote import agent, runtime
from tests.broker import free_port, observing, running
from tests.cli.command import edgetrt

pytestmark = [pytest.mark.broker, pytest.mark.slow]


def test_a_device_is_asked_and_its_answer_printed(tmp_path: Path) -> None:
    with (
        running(tmp_path) as broker,
        observing(broker.port) as observer,
        agent(broker.port, tmp_path),
        runtime(tmp_path),
    ):
        observer.wait_for(wire.status("cam-1"))
        there = ("--broker", f"127.0.0.1:{broker.port}")
        ping = edgetrt("command", "cam-1", "ping", "--json", *there)
        assert ping.code == 0, ping.err
        assert ping.json()["result"]["epoch"] > 0
        picture = tmp_path / "street.jpg"
        shot = edgetrt("command", "cam-1", "snapshot", "pipeline=a", "-o", str(picture), *there)
        assert (shot.code, picture.read_bytes()) == (0, b"a picture")
        assert "data" not in shot.json()
        lines = edgetrt("command", "cam-1", "logs", "lines=5", *there).out.splitlines()
        assert "command logs" in lines[-1]
        refused = edgetrt("command", "cam-1", "format-the-disk", *there)
        assert refused.code == 1
        assert "no such command" in refused.err
        assert "ping" in refused.err
        wrong = edgetrt("command", "cam-1", "ping", "what", *there)
        assert (wrong.code, "KEY=VALUE" in wrong.err) == (78, True)
        absent = edgetrt("command", "cam-9", "ping", "--wait", "0.5", *there)
        assert (absent.code, "no reply" in absent.err) == (69, True)


def test_without_a_broker_it_says_so() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    done = edgetrt("command", "cam-1", "ping", "--wait", "0.5", "--broker", nowhere)
    assert done.code == 69
    assert "error: cam-1: nothing was asked: broker 127.0.0.1" in done.err
    assert "refuses connections" in done.err
