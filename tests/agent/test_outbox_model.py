"""The outbox against a list: whatever happens, nothing is lost that was not counted."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgetrt.agent.entry import Key, Priority
from edgetrt.agent.outbox import Outbox
from tests.agent.waiting import NOW, ROOMY, Disk, FragileStore, entry
from tests.fakes import FakeTransport

priorities = st.sampled_from(list(Priority))


class OutboxModel(RuleBasedStateMachine):
    """Puts, cuts, restarts, and a disk that comes and goes.

    `lost` may hold what was in memory only when the agent was killed.
    """

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.disk = Disk()
        self.epoch, self.seq = 0, 0
        self.put: dict[Key, Priority] = {}
        self.lost: set[Key] = set()
        self.arrived: list[tuple[str, Key, bool]] = []
        self._start()

    @rule(priority=priorities, count=st.integers(1, 5))
    def take(self, priority: Priority, count: int) -> None:
        async def step() -> None:
            for _ in range(count):
                payload = f'{{"at":[{self.epoch},{self.seq}],"historical":false}}'.encode()
                made = entry(self.seq, priority, self.epoch, payload)
                self.put[made.key] = priority
                self.seq += 1
                self.outbox.put(made)

        self.loop.run_until_complete(step())

    @rule()
    def cut(self) -> None:
        self._do(self.transport.go_offline)

    @rule()
    def connect(self) -> None:
        self._do(self.transport.go_online)

    @rule()
    def hold(self) -> None:
        self.transport.hold = True

    @rule()
    def release(self) -> None:
        self._do(self.transport.release)

    @rule(seconds=st.sampled_from([0.0, 0.002, 0.03]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule()
    def lose_disk(self) -> None:
        self.disk.works = False

    @rule()
    def mend_disk(self) -> None:
        self.disk.works = True

    @rule()
    def restart(self) -> None:
        """A stop in good order; with a disk that fails the memory is lost."""
        self._stop()
        self._start()

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "outbox"):
            results = [key for key, of in self.put.items() if of is Priority.RESULT]
            mine = sum(epoch == self.epoch for epoch, _ in results)
            counted = self.outbox.pending + self.outbox.published + self.outbox.unsent
            assert mine == counted

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        try:
            self.disk.works = True
            self._stop()
            self._start()
            self._drain()
            self._check()
        finally:
            self._stop()
            self.folder.cleanup()
            self.loop.close()

    def _check(self) -> None:
        keys = [key for _, key, _ in self.arrived]
        assert set(keys) == set(self.put) - self.lost
        for priority in Priority:
            live = [k for of, k, waited in self.arrived if of == priority.label and not waited]
            assert live == sorted(set(live))
        assert self.outbox.dropped == dict.fromkeys(Priority, 0)

    def _drain(self) -> None:
        """Everything that still waits arrives now."""

        async def step() -> None:
            self.transport.release()
            self.transport.go_online()
            for _ in range(1000):
                await asyncio.sleep(0.005)
                keeper = self.outbox.keeper
                done = keeper.state.commits and not any(keeper.depth(of).rows for of in Priority)
                if done and not self.transport.waiting:
                    return self._note()
            raise AssertionError("does not drain")

        self.loop.run_until_complete(step())

    def _start(self) -> None:
        self.epoch, self.seq = self.epoch + 1, 0

        async def step() -> None:
            self.transport = FakeTransport(online=False)
            open_store = partial(
                FragileStore, Path(self.folder.name) / "outbox.db", ROOMY, self.disk
            )
            self.outbox = Outbox(
                self.transport,
                self.epoch,
                open_store,
                ROOMY,
                lambda: NOW,
                in_flight=3,
                retry_s=0.01,
            )
            self.running = asyncio.create_task(self.outbox.run())
            await asyncio.sleep(0)

        self.loop.run_until_complete(step())

    def _stop(self) -> None:
        async def step() -> None:
            self._note()
            self.transport.go_offline()
            await asyncio.sleep(0.001)
            self.running.cancel()
            await asyncio.wait([self.running])
            await self.outbox.close()
            self._note()
            if not self.disk.works:
                memory = {k for held in self.outbox.keeper._waiting.values() for k in held}
                self.lost |= memory - {key for _, key, _ in self.arrived}
            self.transport.published.clear()

        self.loop.run_until_complete(step())

    def _note(self) -> None:
        for topic, payload, _ in self.transport.published:
            at, _, marked = payload.decode().removeprefix('{"at":[').partition("]")
            epoch, seq = (int(number) for number in at.split(","))
            self.arrived.append((topic, (epoch, seq), "true" in marked))
        self.transport.published.clear()

    def _do(self, step: object) -> None:
        async def run() -> None:
            step()  # type: ignore[operator]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._note()

        self.loop.run_until_complete(run())


OutboxModel.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestOutboxModel = OutboxModel.TestCase
