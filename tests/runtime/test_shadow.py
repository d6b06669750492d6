from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgetrt.asking import look_again
from edgetrt.errors import InferenceError
from edgetrt.runtime.network import Network
from edgetrt.runtime.shadow import Agreement, Trials, shadow
from edgetrt.types import Detections, RawOutput, Result
from tests.runtime.scenes import backend, frame, network
from tests.runtime.test_service import did, done, job, running, wait_for


def boxes(*found: tuple[float, int]) -> Detections:
    """Squares of 10 pixels at these places, of these classes."""
    corners = [[x, 0.0, x + 10.0, 10.0] for x, _ in found]
    return Detections(
        np.array(corners, np.float32).reshape(-1, 4),
        np.linspace(1, 0.5, len(found), dtype=np.float32),
        np.array([k for _, k in found], np.int32),
    )


class Says:
    """A task whose answer is known beforehand."""

    def __init__(self, output: Detections | RawOutput) -> None:
        self.output = output

    def decode(self, *_: object) -> Detections | RawOutput:
        return self.output

    def tuned(self, **_: object) -> Says:
        return self


def in_turn(outputs: Iterable[Detections | RawOutput]) -> Callable[[float], Result | None]:
    """What a running pipeline answers; then nothing more."""
    results = (
        Result("a", frame(n), output, ("cat", "dog"), "old", 0) for n, output in enumerate(outputs)
    )
    return lambda _: next(results, None)


def agreed(other: Detections | RawOutput, *old: Detections | RawOutput) -> float | None:
    found = shadow(network(), Says(other), in_turn(old), len(old), within_s=20.0)
    assert found.frames == len(old)
    return found.value


def test_boxes_agree_in_the_share_that_has_a_partner() -> None:
    old = boxes((0, 2), (50, 2))

    assert agreed(boxes((0, 2), (50, 2)), old) == 1.0
    assert agreed(boxes((0, 2)), old) == pytest.approx(2 / 3)
    assert agreed(boxes((2, 2), (90, 2)), old) == pytest.approx(0.5)
    assert agreed(boxes((6, 2)), boxes((0, 2))) == 0.0


def test_a_box_is_the_partner_of_one_only() -> None:
    assert agreed(boxes((0, 2), (1, 2)), boxes((0, 2))) == pytest.approx(2 / 3)


def test_labels_count_and_not_their_numbers() -> None:
    assert agreed(boxes((0, 0)), boxes((0, 0))) == 0.0  # a thing is no cat


def test_frames_without_any_object_say_nothing() -> None:
    assert agreed(boxes(), boxes(), boxes()) is None


def test_tensors_agree_in_their_cosine() -> None:
    def raw(*values: float, name: str = "y") -> RawOutput:
        return RawOutput({name: np.array(values, np.float32)})

    assert agreed(raw(1, 0), raw(2, 0)) == pytest.approx(1.0)
    assert agreed(raw(1, 0), raw(0, 1)) == pytest.approx(0.0)
    assert agreed(raw(1, 0), raw(1, 0, 0)) == 0.0
    assert agreed(raw(1, 0), raw(1, 0, name="z")) == 0.0
    assert agreed(raw(1, 0), boxes()) == 0.0


def test_it_ends_in_time_when_no_frame_comes() -> None:
    found = shadow(network(), Says(boxes()), lambda _: None, 5, within_s=0.05)

    assert (found.value, found.frames) == (None, 0)


def test_several_runs_share_one_time_and_leave_what_they_do_not_need() -> None:
    now_s, shares = 100.0, []

    def taking(needed_s: float) -> Callable[[int, float], Agreement]:
        def compare(frames: int, within_s: float) -> Agreement:
            nonlocal now_s
            shares.append(within_s)
            now_s += min(needed_s, within_s)
            return Agreement(None, frames)

        return compare

    trials = Trials(7, 4, 120.0, lambda: now_s)
    for needed_s in (1000.0, 3.0, 1000.0, 1000.0):
        trials.begin()
        assert trials.run(taking(needed_s)).frames == 7

    assert shares == pytest.approx([30.0, 30.0, 43.5, 43.5])
    assert now_s - 100.0 <= 120.0 + 1e-6


def test_who_compares_nothing_leaves_its_share_to_the_others() -> None:
    trials, shares = Trials(7, 4, 120.0, lambda: 0.0), list[float]()
    for _ in range(4):
        trials.begin()
    trials.run(lambda frames, within_s: Agreement(None, shares.append(within_s) or frames))
    assert shares == [120.0]


def test_time_that_one_takes_too_long_is_not_there_for_the_next() -> None:
    now_s = 0.0

    def overdrawn(frames: int, within_s: float) -> Agreement:
        nonlocal now_s
        now_s += 50.0
        raise InferenceError("at last")

    trials, left = Trials(1, 2, 40.0, lambda: now_s), []
    trials.begin()
    with pytest.raises(InferenceError):
        trials.run(overdrawn)
    trials.begin()
    trials.run(lambda frames, within_s: Agreement(None, left.append(within_s) or frames))
    assert left == [0.0]


def test_a_runtime_compares_before_it_swaps(tmp_path: Path) -> None:
    with running(tmp_path, job("a")) as device:
        device.jobs = {"a": job("a", engine="second")}
        answer = look_again(tmp_path / "runtime.sock", timeout_s=20.0, shadow=7)
        assert did(answer) == {"a": ("swapped", "second")}
        (one,) = answer.pipelines
        assert one.compared == 7
        assert one.agreement == pytest.approx(1.0)
        served = done(device, "a")
        wait_for(lambda: done(device, "a") > served)


def test_a_network_that_fails_on_live_frames_is_not_swapped_in(tmp_path: Path) -> None:
    broken = backend()

    def breaks_later() -> Network:
        loaded = network(broken, fingerprint="second")
        warm = loaded.warm

        class Warmed(Network):
            def warm(self) -> None:
                warm()
                broken.fail_next = 1

        return Warmed(loaded.fingerprint, loaded.backend, loaded.labels, loaded.lanes, loaded.task)

    with running(tmp_path, job("a")) as device:
        device.jobs = {"a": replace(job("a", engine="second"), load=breaks_later)}
        answer = look_again(tmp_path / "runtime.sock", timeout_s=20.0, shadow=3)
        assert (answer.state, did(answer)) == ("refused", {"a": ("kept", "first")})
    assert broken.open == 0
