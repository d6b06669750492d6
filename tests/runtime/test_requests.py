"""What the agent asks of the runtime: settings, pictures, restarts and measurements."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrt import asking, wire
from edgetrt.clock import SystemClock
from edgetrt.errors import EdgetrtError
from edgetrt.link import Receiver
from edgetrt.runtime.pool import PipelinePool
from edgetrt.runtime.requests import Means, Requests, run
from edgetrt.runtime.service import Service
from edgetrt.types import Result
from tests.fakes import FakeSource
from tests.runtime.scenes import frames
from tests.runtime.test_service import Device, job, running, wait_for

PYTHON = sys.executable


def measuring(pipeline: str, seconds: float) -> Sequence[str]:
    told = f"import json; print(json.dumps({{'name': {pipeline!r}, 'seconds': {seconds}}}))"
    return [PYTHON, "-c", told]


def draw(result: Result, limit: int) -> bytes:
    return b"%d of %d" % (result.frame.seq, limit)


@contextmanager
def asked(folder: Path, *jobs: Any, **means: Any) -> Iterator[Device]:
    """A runtime that takes the agent's messages."""
    with running(folder, *jobs) as device:
        pool = device.service.pool
        all_means = {
            "draw": draw,
            "bench": measuring,
            "look": lambda name: pool.apply(lambda: device.jobs, name),
            **means,
        }
        requests = Requests(pool, device.service.answer, Means(folder, **all_means))
        device.service.handle(wire.SettingsMessage, requests.settle)
        device.service.handle(wire.AskMessage, requests.ask)
        yield device


def ask(folder: Path, what: str, pipeline: str = "a", **said: Any) -> wire.AnswerMessage:
    answer = asking.ask(
        folder / "runtime.sock",
        lambda reply: wire.AskMessage(pipeline=pipeline, what=what, reply=reply, **said),
        30.0,
    )
    assert isinstance(answer, wire.AnswerMessage)
    return answer


def settle(device: Device, pipeline: str, generation: int, **values: Any) -> None:
    device.say(
        wire.encode(wire.SettingsMessage(pipeline=pipeline, generation=generation, settings=values))
    )


def test_settings_come_into_force_and_are_reported(tmp_path: Path) -> None:
    with asked(tmp_path, job("a")) as device:
        settle(device, "a", 3, rate_hz=7.0)
        wait_for(lambda: "a" in device.health and device.health["a"].generation == 3)
        assert device.health["a"].settings == {"rate_hz": 7.0}
        wait_for(lambda: device.rates_hz.get("a") == 7.0)


def test_settings_of_another_version_are_refused_and_reported(tmp_path: Path) -> None:
    with asked(tmp_path, job("a")) as device:
        settle(device, "a", 3, from_the_future=1)
        wait_for(lambda: "a" in device.health and device.health["a"].generation == 3)
        assert "from_the_future" in device.health["a"].unsettled
        settle(device, "nobody", 3, rate_hz=1.0)
        wait_for(lambda: device.service.malformed == 1)


def test_a_picture_of_the_next_result_is_left_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "snapshot-old.jpg").write_bytes(b"left by somebody who did not wait")
    with asked(tmp_path, job("a")):
        answer = ask(tmp_path, "snapshot", limit=99)
        assert answer.error == ""
        name = answer.result["file"]
        assert (tmp_path / name).read_bytes() == b"%d of 99" % answer.result["frame"]
        assert sorted(path.name for path in tmp_path.glob("*.jpg")) == [name]


@pytest.mark.parametrize(
    ("what", "pipeline", "told"),
    [
        ("snapshot", "nobody", "not here"),
        ("format-the-disk", "a", "nothing that this runtime does"),
    ],
)
def test_what_is_not_here_is_told(tmp_path: Path, what: str, pipeline: str, told: str) -> None:
    with asked(tmp_path, job("a")):
        assert told in ask(tmp_path, what, pipeline).error


def test_a_fault_while_drawing_is_answered(tmp_path: Path) -> None:
    def broken(result: Result, limit: int) -> bytes:
        raise ZeroDivisionError("a bug")

    with asked(tmp_path, job("a"), draw=broken) as device:
        assert "internal error" in ask(tmp_path, "snapshot").error
        assert device.thread.is_alive()


def test_a_pipeline_is_opened_again(tmp_path: Path) -> None:
    with asked(tmp_path, job("a")) as device:
        supervisor = device.service.pool.get("a")
        assert supervisor is not None
        assert ask(tmp_path, "restart").result == {
            "state": "running",
            "engine": "first",
            "error": "",
        }
        assert supervisor.opened == 2


def test_one_that_has_given_up_is_begun_anew(tmp_path: Path) -> None:
    from edgetrt.errors import ConfigError

    lives = itertools.chain([FakeSource([*frames(0), ConfigError("wrong")])])
    rest = itertools.repeat(None)

    def source() -> FakeSource:
        life = next(lives, next(rest))
        return life or FakeSource(frame for n in range(10**9) for frame in frames(n))

    with asked(tmp_path, job("a", source), job("b")) as device:
        before = device.service.pool.get("a")
        assert before is not None
        wait_for(lambda: before.meter.state == "failed")
        assert ask(tmp_path, "restart").result["state"] == "running"
        assert device.service.pool.get("a") is not before


def test_one_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    with asked(tmp_path, job("a", lambda: FakeSource(frames(0, 1))), job("b")) as device:
        before = device.service.pool.get("a")
        assert before is not None
        wait_for(lambda: before.meter.state == "ended")
        wait_for(lambda: not before.reopen())
        assert "come to its end" in ask(tmp_path, "restart").error


def test_an_engine_is_measured_by_a_child(tmp_path: Path) -> None:
    with asked(tmp_path, job("a")):
        assert ask(tmp_path, "bench", seconds=1.5).result == {"name": "a", "seconds": 1.5}


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    def failing(pipeline: str, seconds: float) -> Sequence[str]:
        return [PYTHON, "-c", "import sys; sys.exit('error: no GPU here')"]

    with asked(tmp_path, job("a"), bench=failing):
        assert "no GPU here" in ask(tmp_path, "bench").error


@pytest.mark.slow
def test_a_child_is_killed_at_its_limit_with_its_own_children(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    program = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )
    with pytest.raises(EdgetrtError, match="not done within"):
        run([PYTHON, "-c", program], 5.0)
    grandchild = Path("/proc") / told.read_text() / "stat"
    wait_for(lambda: not grandchild.exists() or grandchild.read_text().split()[2] == "Z")
    with pytest.raises(EdgetrtError, match="cannot be started"):
        run(["/no/such/program"], 1.0)


def test_a_child_yields_to_others() -> None:
    status, out, _ = run(
        [PYTHON, "-c", "import os, time; time.sleep(0.3); print(os.nice(0))"], 30.0
    )
    assert status == 0
    assert int(out) > os.nice(0)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda kind, rest: wire.encode(kind) + rest,
        st.sampled_from(
            [
                wire.SettingsMessage(pipeline="a", generation=1, settings={"score": 0.5}),
                wire.AskMessage(pipeline="a", what="snapshot", reply="ask-1-1.sock"),
                wire.GrantMessage(pipeline="a", rate_hz=1.0),
                wire.ActivateMessage(pipeline="a", reply="x"),
            ]
        ),
        st.binary(min_size=1, max_size=5),
    ),
)
def test_any_datagram_is_counted_and_the_runtime_goes_on(tmp_path: Path, datagram: bytes) -> None:
    from edgetrt.link import Sender

    path = tmp_path / "runtime.sock"
    with Receiver(path) as inbox:
        service = Service(PipelinePool(), dict, lambda _: True, inbox, SystemClock())
        requests = Requests(
            service.pool, service.answer, Means(tmp_path, draw, measuring, lambda _: None)
        )
        service.handle(wire.SettingsMessage, requests.settle)
        service.handle(wire.AskMessage, requests.ask)
        with Sender(path) as sender:
            assert sender.send(datagram)
        service._listen()
        # White space behind a message changes nothing of it; then it is for a pipeline that is not here.
        assert service.malformed in (0, 1)
        if datagram.strip(b" \t\r\n") == datagram:
            assert service.malformed == 1
