"""What the outsider counts, from samples of the public contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgetrt.demo.observer import Observer
from edgetrt.demo.performance import TRIES, stuck

SAMPLES = Path(__file__).parents[1] / "data" / "wire-v1"
UP = "edgetrt/v1/u/demo"


def sample(kind: str, **changes: Any) -> bytes:
    return json.dumps({**json.loads((SAMPLES / f"{kind}.json").read_bytes()), **changes}).encode()


def test_results_count_once_however_often_they_arrive() -> None:
    seen = Observer()
    objects = json.loads(sample("result"))["objects"]
    for seq in (1, 2, 2, 1, 3):
        seen.take(f"{UP}/result/street", sample("result", seq=seq))
    seen.take(f"{UP}/result/street", sample("result", seq=4, objects=[]))
    assert (seen.results, seen.objects, seen.now) == (4, 3 * len(objects), 0)
    assert seen.mean_objects() == 3 * len(objects) / 4
    assert Observer().mean_objects() == 0.0


def test_status_and_health_are_kept_as_last_said() -> None:
    seen = Observer()
    seen.take(f"{UP}/status", sample("status", online=True))
    seen.take(f"{UP}/status", sample("status", online=False))
    seen.take(f"{UP}/health", sample("health"))
    assert (seen.online, seen.healths, seen.malformed) == (False, 1, 0)


def test_what_breaks_the_contract_is_counted_and_nothing_else() -> None:
    seen = Observer()
    for topic, payload in (
        (f"{UP}/status", b"\xffnonsense"),
        (f"{UP}/status", sample("status", v=2)),
        (f"{UP}/result/street", sample("status")),
        ("somebody/else", sample("status")),
    ):
        seen.take(topic, payload)
    assert (seen.malformed, seen.results, seen.online) == (4, 0, None)


def test_a_pipeline_that_never_gave_a_result_is_given_up_after_some_starts() -> None:
    health = json.loads(sample("health"))

    def after(restarts: int, done: int) -> str | None:
        report = health["pipelines"][0]
        report["error"] = "no such camera"
        report["counters"].update(restarts=restarts, done=done)
        seen = Observer()
        seen.take(f"{UP}/health", json.dumps(health).encode())
        assert seen.malformed == 0
        return stuck(seen)

    assert stuck(Observer()) is None
    assert after(TRIES - 1, 0) is None
    assert after(TRIES, 1) is None
    assert after(TRIES, 0) == "no such camera"
