"""The trial between backends, and what is remembered of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrt.backends.choose import available, choose, fastest, measure
from edgetrt.errors import BackendError, ModelError
from edgetrt.types import TensorSpec
from tests.fakes import FakeBackend

MODEL = Path("net.onnx")
DIGEST = "ab12"


def _slow(name: str = "slow") -> FakeBackend:
    return FakeBackend(name, delay_s=0.001)


def test_one_backend_needs_no_trial(tmp_path: Path) -> None:
    only = FakeBackend()
    assert choose([only], MODEL, DIGEST, 2, tmp_path) is only
    assert only.loads == 0
    assert list(tmp_path.iterdir()) == []


def test_the_faster_one_is_taken_wherever_it_stands(tmp_path: Path) -> None:
    slow, quick = _slow(), FakeBackend("quick")
    assert choose([slow, quick], MODEL, DIGEST, 2, tmp_path / "a") is quick
    assert choose([quick, slow], MODEL, DIGEST, 2, tmp_path / "b") is quick
    assert (slow.open, quick.open) == (0, 0)


def test_the_choice_is_remembered(tmp_path: Path) -> None:
    slow, quick = _slow(), FakeBackend("quick")
    choose([slow, quick], MODEL, DIGEST, 2, tmp_path)
    quick.delay_s, slow.delay_s = slow.delay_s, 0.0
    assert choose([slow, quick], MODEL, DIGEST, 2, tmp_path) is quick
    assert (slow.loads, quick.loads) == (1, 1)


@pytest.mark.parametrize("change", ["digest", "threads", "shapes", "version"])
def test_another_question_is_measured_anew(tmp_path: Path, change: str) -> None:
    first, second = FakeBackend("first"), _slow("second")
    choose([first, second], MODEL, DIGEST, 2, tmp_path)
    if change == "version":
        second.version = "1.1"
    digest = "cd34" if change == "digest" else DIGEST
    threads = 1 if change == "threads" else 2
    shapes = {"x": (2, 4)} if change == "shapes" else None
    for backend in (first, second):
        backend.outputs = (TensorSpec("y", (2 if shapes else 1, 4), "float32"),)
    choose([first, second], MODEL, digest, threads, tmp_path, shapes)
    assert (first.loads, second.loads) == (2, 2)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"v": 99, "choices": {}}', '{"v": 1, "choices": 7}', '{"v": 1}', "\x00\x01"],
)
def test_a_damaged_memory_costs_a_trial_and_nothing_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "backends.json").write_text(content)
    slow, quick = _slow(), FakeBackend("quick")
    assert choose([slow, quick], MODEL, DIGEST, 2, tmp_path) is quick
    assert json.loads((tmp_path / "backends.json").read_text())["v"] == 1


def test_a_remembered_backend_that_is_gone(tmp_path: Path) -> None:
    choose([_slow(), FakeBackend("quick")], MODEL, DIGEST, 2, tmp_path)
    store = tmp_path / "backends.json"
    data = json.loads(store.read_text())
    data["choices"] = dict.fromkeys(data["choices"], "vanished")
    store.write_text(json.dumps(data))
    assert choose([_slow(), FakeBackend("quick")], MODEL, DIGEST, 2, tmp_path).name == "quick"


def test_a_memory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    slow, quick = _slow(), FakeBackend("quick")
    assert choose([slow, quick], MODEL, DIGEST, 2, tmp_path / "file") is quick


def test_the_memory_does_not_grow_without_end(tmp_path: Path) -> None:
    backends = [FakeBackend("quick"), FakeBackend("broken", error=ModelError("no"))]
    for number in range(70):
        choose(backends, MODEL, str(number), 2, tmp_path)
    assert len(json.loads((tmp_path / "backends.json").read_text())["choices"]) == 64


def test_one_that_cannot_load_is_passed_over(tmp_path: Path) -> None:
    broken, slow = FakeBackend("broken", error=ModelError("cannot read it")), _slow()
    assert choose([broken, slow], MODEL, DIGEST, 2, tmp_path) is slow


def test_one_that_cannot_run_is_passed_over_and_closed(tmp_path: Path) -> None:
    failing, slow = FakeBackend("failing"), _slow()
    failing.fail_next = 1
    assert choose([failing, slow], MODEL, DIGEST, 2, tmp_path) is slow
    assert failing.open == 0


def test_none_left_tells_every_reason(tmp_path: Path) -> None:
    broken = [FakeBackend(name, error=ModelError(f"{name} says no")) for name in ("one", "two")]
    with pytest.raises(BackendError, match=r"one: one says no; two: two says no"):
        choose(broken, MODEL, DIGEST, 2, tmp_path)
    with pytest.raises(BackendError, match="none is installed"):
        choose([], MODEL, DIGEST, 2, tmp_path)


def test_measure_gives_every_backend_its_median() -> None:
    times_ms = measure([_slow(), FakeBackend("quick")], MODEL, 2, budget_s=0.0)
    assert list(times_ms) == ["slow", "quick"]
    assert times_ms["slow"] >= 1.0 > times_ms["quick"] > 0


def test_integer_inputs_stay_small_enough_to_be_indexes() -> None:
    seen: list[int] = []
    backend = FakeBackend(
        inputs=(TensorSpec("x", (1, 64), "int64"),),
        outputs=(TensorSpec("y", (1, 64), "int64"),),
        compute=lambda buffers: (seen.extend(buffers["x"].ravel()), {"y": buffers["x"]})[1],
    )
    measure([backend], MODEL, 1)
    assert set(seen) == {0, 1}


def test_available_lists_the_usable_and_the_reasons() -> None:
    def missing() -> FakeBackend:
        raise BackendError("gone: not installed", "pip install gone")

    usable, absent = available({"fake": FakeBackend, "gone": missing})
    assert (usable.name, usable.version, usable.reason) == ("fake", "1.0", "")
    assert isinstance(usable.backend, FakeBackend)
    assert (absent.name, absent.backend, absent.reason, absent.hint) == (
        "gone",
        None,
        "gone: not installed",
        "pip install gone",
    )


@given(st.dictionaries(st.text(), st.floats(0.01, 1e6), min_size=1))
def test_the_choice_is_never_much_slower_than_the_best(times_ms: dict[str, float]) -> None:
    name = fastest(times_ms)
    assert times_ms[name] * 0.95 <= min(times_ms.values())
    first = next(iter(times_ms))
    if times_ms[first] == min(times_ms.values()):
        assert name == first
