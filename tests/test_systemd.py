from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from edgetrt.systemd import START_S, Notifier, Progress, keep_alive
from edgetrt.types import Counters, PipelineHealth
from tests.fakes import FakeClock


@dataclass
class Manager:
    """The other end of the socket."""

    socket: socket.socket
    address: str

    def take(self) -> list[str]:
        """What came since the last look, one entry per line."""
        lines: list[str] = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return lines


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        if request.param == "file":
            address = bound = str(tmp_path / "notify")
        else:
            bound = f"\0edgetrt-test-{os.getpid()}"
            address = f"@{bound[1:]}"
        ours.bind(bound)
        ours.setblocking(False)
        yield Manager(ours, address)


def notifier(manager: Manager, watchdog_s: float | None = 30.0) -> Notifier:
    environment = {"NOTIFY_SOCKET": manager.address}
    if watchdog_s is not None:
        environment["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
    return Notifier(environment)


def health(name: str = "a", state: str = "running", done: int = 0, **counts: int) -> PipelineHealth:
    return PipelineHealth(
        pipeline=name,
        state=state,
        backend="",
        engine="",
        fps=0.0,
        latency=None,
        stages={},
        counters=Counters(done=done, **counts),
        error="camera lost" if state == "backoff" else "",
    )


def test_each_word_is_the_protocols(manager: Manager) -> None:
    systemd = notifier(manager)

    systemd.ready("two\npipelines")
    systemd.status("fine")
    systemd.alive()
    systemd.extend_start()
    systemd.stopping()

    assert manager.take() == [
        "READY=1",
        "STATUS=two pipelines",
        "STATUS=fine",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=30000000",
        "STOPPING=1",
    ]


def test_a_unit_without_watchdog_is_not_fed(manager: Manager) -> None:
    notifier(manager, watchdog_s=None).alive()

    assert manager.take() == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_the_watchdog_time_is_the_units_and_for_us(
    environment: dict[str, str], expected: float | None
) -> None:
    assert Notifier(environment).watchdog_s == expected


def test_without_systemd_and_with_a_dead_one_nothing_happens(tmp_path: Path) -> None:
    alone = Notifier({})
    orphan = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000000"})

    alone.ready("")
    orphan.ready("")
    orphan.alive()

    assert orphan.watchdog_s == 1.0


def test_ready_comes_with_the_first_result_and_once(manager: Manager) -> None:
    progress = Progress(notifier(manager), FakeClock())

    progress([health(state="starting"), health("b", "starting")], {})
    progress([health(), health("b", "starting")], {})
    before = manager.take()
    progress([health(done=1), health("b", "starting")], {})
    progress([health(done=2), health("b", done=1)], {})
    after = manager.take()

    assert "READY=1" not in before
    assert after.count("READY=1") == 1


def test_without_any_pipeline_the_runtime_is_ready_and_says_why(manager: Manager) -> None:
    Progress(notifier(manager), FakeClock())([], {})

    assert manager.take()[:2] == ["READY=1", "STATUS=no pipeline is configured"]


def feeds(
    manager: Manager,
    progress: Progress,
    clock: FakeClock,
    *looks: object,
    rates_hz: Mapping[str, float] = MappingProxyType({}),
) -> list[bool]:
    """Whether each look, a second apart, fed the watchdog."""
    fed = []
    for look in looks:
        assert isinstance(look, list)
        clock.advance(1.0)
        progress(look, rates_hz)
        fed.append("WATCHDOG=1" in manager.take())
    return fed


def test_a_pipeline_that_stands_still_starves_the_watchdog(manager: Manager) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)

    looks = [[health(done=1)], [health(done=2)], *[[health(done=2)]] * 60]

    assert feeds(manager, progress, clock, *looks) == [True, True, *[False] * 60]


def test_one_that_stands_still_is_not_hidden_by_one_that_moves(manager: Manager) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)

    looks = [[health(done=n), health("b", done=min(n, 3))] for n in range(1, 30)]

    assert feeds(manager, progress, clock, *looks) == [True] * 3 + [False] * 26


def test_slow_ones_out_of_step_feed_it(manager: Manager) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)

    looks = [[health(done=n // 10), health("b", done=(n + 5) // 10)] for n in range(10, 60)]
    fed = feeds(manager, progress, clock, *looks)

    hungry = max(len(gap) for gap in "".join("x" if f else "." for f in fed).split("x"))
    assert 0 < hungry < 12


def test_one_that_is_asked_for_a_frame_a_minute_is_left_in_peace(manager: Manager) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)
    looks = [[health(done=1)]] * 240

    fed = feeds(manager, progress, clock, *looks, rates_hz={"a": 1 / 60})

    assert all(fed[:179])
    assert not any(fed[182:])


def test_a_grant_that_is_slower_than_the_watchdog_is_waited_for(manager: Manager) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)
    looks = [[health(done=1)]] * 60
    feeds(manager, progress, clock, *looks)

    assert all(feeds(manager, progress, clock, *looks, rates_hz={"a": 1 / 60})[1:])
    assert not any(feeds(manager, progress, clock, *looks)[1:])


def test_pipelines_may_come_and_go(manager: Manager) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)

    still = [[health(done=n), health("b", done=3)] for n in range(5, 10)]
    gone = [[health(done=n)] for n in range(10, 20)]
    other = [[health(done=n), health("c", done=n)] for n in range(20, 30)]
    again = [[health(done=n), health("b", done=3)] for n in (30, 31)]

    assert feeds(manager, progress, clock, *still) == [True] + [False] * 4
    assert all(feeds(manager, progress, clock, *gone, *other))
    assert feeds(manager, progress, clock, *again) == [True, False]


def test_pipelines_that_are_not_to_run_are_no_reason_to_wait(manager: Manager) -> None:
    progress = Progress(notifier(manager), FakeClock())

    progress([health(state="stopped"), health("b", "starting")], {})
    before = manager.take()
    progress([health(state="stopped"), health("b", "stopped")], {})

    assert "READY=1" not in before
    assert "READY=1" in manager.take()


@pytest.mark.parametrize("state", ["backoff", "ended", "failed", "stopped"])
def test_one_that_waits_or_is_over_does_not_count_as_still(manager: Manager, state: str) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)

    looks = [[health(state=state), health("b", done=n)] for n in range(100)]

    assert all(feeds(manager, progress, clock, *looks))


def test_a_load_may_take_its_time_but_not_for_ever(manager: Manager) -> None:
    clock = FakeClock()
    progress = Progress(notifier(manager), clock)

    fed = feeds(manager, progress, clock, *[[health(state="starting")]] * (round(START_S) + 60))

    assert all(fed[: round(START_S) - 1])
    assert not any(fed[round(START_S) + 2 :])


def test_a_start_that_waits_for_its_camera_is_extended_until_ready(manager: Manager) -> None:
    progress = Progress(notifier(manager), FakeClock())

    progress([health(state="starting")], {})
    assert not any(line.startswith("EXTEND") for line in manager.take())
    progress([health(state="backoff", restarts=1)], {})
    heard = manager.take()
    assert "EXTEND_TIMEOUT_USEC=30000000" in heard
    assert "STATUS=a backoff: camera lost" in heard
    progress([health(done=1, restarts=1)], {})
    progress([health(state="backoff", done=1, restarts=2)], {})
    assert not any(line.startswith("EXTEND") for line in manager.take())


def test_the_event_loop_feeds_it(manager: Manager) -> None:
    async def serve() -> int:
        feeding = asyncio.create_task(keep_alive(notifier(manager, watchdog_s=0.003)))
        heard = 0
        for _ in range(1000):
            await asyncio.sleep(0.001)
            heard += manager.take().count("WATCHDOG=1")
            if heard >= 3:
                break
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        return heard

    assert asyncio.run(serve()) >= 3


def test_without_watchdog_the_feeding_ends_at_once(manager: Manager) -> None:
    asyncio.run(keep_alive(notifier(manager, watchdog_s=None)))

    assert manager.take() == []
