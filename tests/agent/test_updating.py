"""Updates as a part of the agent: what comes in, what is told, and that nothing ends the agent."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt import wire
from edgetrt.agent.agent import Agent
from edgetrt.agent.identity import Identity
from edgetrt.agent.trust_process import TrustProcess
from edgetrt.agent.updating import Updating
from edgetrt.agent.verdict import Demand
from edgetrt.agent.watch import Watch
from edgetrt.config import DeviceConfig, HealthConfig, OutboxConfig, PublishConfig
from edgetrt.errors import UnreachableError
from edgetrt.link import Receiver
from edgetrt.update import bundle, durable, held
from edgetrt.update.built import Built
from edgetrt.update.conditions import SwitchConditions
from edgetrt.update.handover import Handover
from edgetrt.update.local import Local
from edgetrt.update.record import Check, FileStore, Record, alone
from edgetrt.update.release import Host, Release
from edgetrt.update.requests import MARK, Request, Requests
from edgetrt.update.states import Code, State
from edgetrt.update.steps import Switching, Verifying
from tests.cli.command import Done, edgetrt
from tests.fakes import FakeTransport
from tests.update.device import DEVICE, Clock, FileEngines, Judge, Room, Site, from_web, serving
from tests.update.device import Device as Bare

REPORTED, EVENT, HEALTH = wire.reported(DEVICE), wire.event(DEVICE), wire.health(DEVICE)
DESIRED = wire.desired(DEVICE)


class SlowEngines(FileEngines):
    """Engines whose build goes on until a test lets it end."""

    def __init__(self, folder: Path, fails: str = "") -> None:
        super().__init__(folder, fails)
        self.done, self.rested = threading.Event(), 0
        self.done.set()

    def build(self, folder: Path, release: Release) -> Built | None:
        return super().build(folder, release) if self.done.is_set() else None

    def rest(self) -> None:
        self.rested += 1


class Wall(Clock):
    """The machine's own time: everything here happens now."""

    @property
    def at(self):  # type: ignore[no-untyped-def]
        from datetime import datetime, timezone

        return datetime.now(timezone.utc)

    @at.setter
    def at(self, _: object) -> None:
        """It cannot be turned."""


@dataclass
class World:
    """A site on the web with two releases, and the folder of a device."""

    site: Site
    address: str
    folder: Path
    targets: list[str]
    good: bool = True
    fails: str = ""

    def digest(self, n: int) -> str:
        found = self.site.repository.load("targets").signed.targets[self.targets[n]]
        return str(found.hashes["sha256"])

    def updating(
        self, trust: TrustProcess | None = None, synced: bool = True, **how: object
    ) -> tuple[Updating, SlowEngines]:
        bare = Bare(
            self.folder,
            self.site.repository.first_root(),
            from_web(self.address),
            clock=Wall(synced=synced),
        )
        if trust is not None:
            sources = from_web(self.address)
            bare.verifying = Verifying(DEVICE, Host(), bare.layout, trust, sources)
        root, stop = bare.layout.root, threading.Event()
        engines = SlowEngines(self.folder / "engines", self.fails)
        local = Local(DEVICE, bare.layout, FileStore(root), Requests(root), bare.verifying)
        switching = Switching(
            bare.layout, engines, SwitchConditions(root, Room()), Judge(self.good)
        )
        return Updating(local, switching, engines, Watch(), stop, **how), engines  # type: ignore[arg-type]

    @property
    def root(self) -> Path:
        return self.folder / "update"

    def record(self) -> Record | None:
        return FileStore(self.root).load().record


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str, list[str]]]:
    site = Site(tmp_path_factory.mktemp("site"))
    targets = [site.release(str(n), b"network" * (n + 1)) for n in range(3)]
    with serving(site.repository.metadata.parent) as (address, _):
        yield site, address, targets


@pytest.fixture
def world(shop: tuple[Site, str, list[str]], tmp_path: Path) -> World:
    site, address, targets = shop
    return World(site, address, tmp_path / "device", targets)


class Rig:
    """An agent that takes updates, over a broker in memory."""

    def __init__(self, world: World, updating: Updating, transport: FakeTransport) -> None:
        self.world, self.updating, self.transport = world, updating, transport

    def desire(self, n: int, generation: int, **how: object) -> None:
        target = self.world.targets[n]
        envelope = self.world.site.assign(target, generation, **how)  # type: ignore[arg-type]
        self.transport.deliver(DESIRED, envelope)

    def reports(self) -> list[wire.UpdateReport]:
        bodies = [body for on, body, _ in self.transport.published if on == REPORTED]
        found = [wire.decode(wire.ReportedMessage, body).update for body in bodies]
        return [one for one in found if one is not None]

    def events(self) -> list[str]:
        bodies = [body for on, body, _ in self.transport.published if on == EVENT]
        told = [wire.decode(wire.EventMessage, body) for body in bodies]
        return [one.text for one in told if one.event == "update"]

    def reasons(self) -> dict[str, str]:
        """Those of the last health, by code."""
        bodies = [body for on, body, _ in self.transport.published if on == HEALTH]
        found = wire.decode(wire.HealthMessage, bodies[-1]).reasons if bodies else ()
        return {reason.code: reason.text for reason in found}

    async def until(self, met: Callable[[], bool], within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while not met():
            assert time.monotonic() < deadline, (self.updating.report, self.events())
            await asyncio.sleep(0.01)

    async def ended(self, code: Code, generation: int = 0) -> Record:
        def over() -> bool:
            record = self.world.record()
            return record is not None and record.code is code and record.generation >= generation

        await self.until(over)
        record = self.world.record()
        assert record is not None
        await self.until(lambda: self.reports()[-1].code == code.value)
        return record


def drive(
    world: World,
    scenario: Callable[[Rig], Awaitable[None]],
    updating: Updating | None = None,
    health_s: float = 3600.0,
) -> Rig:
    """Run an agent with updates through a scenario; it judges its health every `health_s`."""
    part = updating or world.updating()[0]
    broker = FakeTransport()
    config = DeviceConfig(
        device=DEVICE,
        publish=PublishConfig(health_s=health_s),
        outbox=OutboxConfig(store="memory"),
        health=HealthConfig(agent_mb=1e6, memory_free=0.0, disk_free=0.0, offline_s=0.01),
    )

    async def run(receiver: Receiver) -> Rig:
        identity = Identity(DEVICE, 77, "0.1.0", "boot")
        agent = Agent(identity, config, broker, receiver, updating=part)
        rig, stop = Rig(world, part, broker), asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        try:
            await asyncio.wait_for(scenario(rig), 60)
        finally:
            stop.set()
            await asyncio.wait_for(running, 60)
        return rig

    world.folder.mkdir(exist_ok=True)
    with Receiver(world.folder / "agent.sock") as receiver:
        return asyncio.run(run(receiver))


def test_desired_leads_to_a_proven_release_that_is_reported(world: World) -> None:
    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        await rig.ended(Code.SUCCEEDED)

    rig = drive(world, scenario)
    last = rig.reports()[-1]
    assert (last.serving, last.digest, last.newest) == (world.digest(0), world.digest(0), 1)
    assert [check.name for check in last.checks] == ["fps"]
    assert rig.events() == [
        *(state.value for state in State if state is not State.ROLLBACK),
        "SUCCEEDED",
    ]


def test_the_process_that_verified_ends_with_the_agent(world: World) -> None:
    trust = TrustProcess(world.root / "trust", world.site.repository.first_root(), True)
    seen = []

    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        await rig.ended(Code.SUCCEEDED)
        seen.append(trust._process)

    drive(world, scenario, world.updating(trust)[0])
    assert seen != [None], "it waits for another question"
    assert trust._process is None


def test_one_that_waits_for_the_clock_is_told_everywhere(world: World) -> None:
    shown: list[Done] = []

    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        await rig.until(lambda: any(report.held for report in rig.reports()))
        for what in ("status", "show"):
            command = ("update", what, "--folder", world.root)
            shown.append(await asyncio.to_thread(edgetrt, *command))
        await rig.until(lambda: "update" in rig.reasons())

    rig = drive(world, scenario, world.updating(synced=False)[0], health_s=0.05)
    told = [report.held for report in rig.reports() if report.held]
    assert world.record() is None
    for text in (told[0], *(done.out for done in shown)):
        assert "clock: not set by any time source since boot" in text
        assert "update.trust_clock: true" in text
    assert "No update was ever asked for" not in shown[1].out
    assert rig.events() == [], "anybody may have sent it"
    assert held.read(world.root) == "", "nobody works on updates any more"


def test_a_worse_one_is_taken_back_with_its_verdict(world: World) -> None:
    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        await rig.ended(Code.ROLLED_BACK)

    world.good = False
    rig = drive(world, scenario)
    last = rig.reports()[-1]
    assert (last.serving, last.reason) == ("", "prove")
    assert (last.checks[0].ok, last.checks[0].value) == (False, "11.5 Hz")
    assert last.log == ("the last line",)
    assert rig.events()[-1] == "ROLLED_BACK: releases/street-0.tar: fps: 11.5 Hz, limit >= 20 Hz"


@pytest.mark.parametrize(
    ("fails", "code", "reason"),
    [
        ("build", Code.FAILED, "enginebuild"),
        ("golden", Code.REJECTED, "golden"),
        ("activate", Code.ROLLED_BACK, "enginebuild"),
        ("disagree", Code.ROLLED_BACK, "prove"),
    ],
)
def test_what_cannot_be_done_ends_with_its_reason(
    world: World, fails: str, code: Code, reason: str
) -> None:
    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        assert (await rig.ended(code)).reason == reason

    world.fails = fails
    last = drive(world, scenario).reports()[-1]
    assert last.detail
    assert (last.checks != ()) == (fails in ("golden", "disagree"))


def test_a_forged_one_is_counted_and_the_next_good_one_taken(world: World) -> None:
    async def scenario(rig: Rig) -> None:
        rig.desire(0, 9, key="targets-0")
        await rig.until(lambda: rig.updating.report.refused == {"signature": 1})
        assert world.record() is None
        rig.desire(1, 1)
        await rig.ended(Code.SUCCEEDED)
        rig.desire(0, 1, device="cam-2")
        await rig.until(lambda: rig.updating.report.refused.get("foreign") == 1)
        rig.transport.deliver(DESIRED, b"")

    rig = drive(world, scenario)
    assert rig.reports()[-1].serving == world.digest(1)


def test_a_lower_generation_is_ignored_and_reported(world: World) -> None:
    async def scenario(rig: Rig) -> None:
        rig.desire(0, 5)
        await rig.ended(Code.SUCCEEDED)
        rig.desire(1, 4)
        await rig.until(lambda: rig.reports()[-1].older == 1)

    rig = drive(world, scenario)
    assert rig.events()[-1] == "generation 4 ignored, 5 was seen before"
    assert rig.reports()[-1].serving == world.digest(0)


def test_a_newer_one_ends_a_build_that_goes_on(world: World) -> None:
    part, engines = world.updating()
    engines.done.clear()

    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        await rig.until(lambda: rig.updating.report.held == "its engines are being made")
        rested = engines.rested
        rig.desire(1, 2)
        await rig.until(lambda: rig.updating.report.generation == 2)
        await rig.until(lambda: engines.rested > rested)
        engines.done.set()
        await rig.ended(Code.SUCCEEDED, 2)

    drive(world, scenario, part)
    assert FileStore(world.root).load().history[0].code is Code.CANCELED


def test_a_person_calls_it_off_and_goes_back(world: World) -> None:
    part, engines = world.updating()

    async def scenario(rig: Rig) -> None:
        for n in (0, 1):
            rig.desire(n, n + 1)
            await rig.ended(Code.SUCCEEDED, n + 1)
        engines.done.clear()
        rig.desire(2, 3)
        await rig.until(lambda: rig.updating.report.state == "BUILD")
        Requests(world.root).ask(Request(what="abort", digest=world.digest(2)))
        await rig.ended(Code.CANCELED, 3)
        Requests(world.root).ask(Request(what="rollback", digest=world.digest(1)))
        await rig.until(lambda: rig.updating.report.serving == world.digest(0))
        await rig.ended(Code.ROLLED_BACK)

    drive(world, scenario, part)


def test_a_bundle_is_taken_while_the_agent_runs(world: World) -> None:
    async def scenario(rig: Rig) -> None:
        target = world.targets[0]
        path = world.folder / "one.edgetrt"
        bundle.write(world.site.repository, target, [world.site.assign(target, 1)], path)
        await rig.until(world.root.is_dir)
        handover = Handover(world.root, DEVICE)
        offer = await asyncio.to_thread(handover.give, path)
        record = await asyncio.to_thread(handover.wait, offer, 30.0, lambda _: None)
        assert record.code is Code.SUCCEEDED

    drive(world, scenario)


@pytest.mark.slow
def test_an_import_typed_while_the_agent_runs_is_handed_to_it(world: World) -> None:
    def wish(*arguments: object) -> Done:
        where = ("--config", "agent.yaml", "--folder", "update", "--json")
        return edgetrt("update", "import", *arguments, *where, cwd=world.folder)

    world.folder.mkdir()
    (world.folder / "root.json").write_bytes(world.site.repository.first_root())
    (world.folder / "agent.yaml").write_text(
        f"device: {DEVICE}\nupdate: {{root: root.json, trust_clock: true}}\n"
    )
    target = world.targets[0]
    for name, envelope in (
        ("good", world.site.assign(target, 1)),
        ("forged", world.site.assign(target, 2, key="targets-0")),
    ):
        path = world.folder / f"{name}.edgetrt"
        bundle.write(world.site.repository, target, [envelope], path)

    async def scenario(rig: Rig) -> None:
        await rig.until(world.root.is_dir)
        done = await asyncio.to_thread(wish, "good.edgetrt")
        assert (done.code, done.json()["update"]["target"]) == (0, target), done.err
        await rig.ended(Code.SUCCEEDED)
        done = await asyncio.to_thread(wish, "forged.edgetrt")
        assert done.json()["update"]["code"] == "REJECTED"
        assert "not signed by the assignment key" in " ".join(done.err.split())
        assert done.code == 65
        assert list((world.root / "inbox").iterdir()) == []

    drive(world, scenario)


@pytest.mark.parametrize("proven", [True, False])
def test_what_the_guard_took_back_ends_as_crashed(world: World, proven: bool) -> None:
    held = threading.Event()

    class Watching(Judge):
        def look(self, trial: object) -> object:  # type: ignore[override]
            return super().look(trial) if proven or held.is_set() else None  # type: ignore[arg-type]

    part, engines = world.updating()
    switching = Switching(
        part._local.layout,
        engines,
        SwitchConditions(world.root, Room()),
        Watching(),  # type: ignore[arg-type]
    )
    part = Updating(part._local, switching, engines, Watch(), threading.Event())

    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        at = "SUCCEEDED" if proven else "PROVE"
        await rig.until(lambda: (rig.updating.report.code or rig.updating.report.state) == at)
        durable.replace(world.root / MARK, world.digest(0).encode())
        record = await rig.ended(Code.ROLLED_BACK)
        assert (record.reason, record.digest) == ("crashed", world.digest(0))
        await rig.until(lambda: not (world.root / MARK).exists())

    rig = drive(world, scenario, part)
    assert rig.reports()[-1].serving == ""


def test_settings_go_to_whoever_takes_them(world: World) -> None:
    import msgspec

    from edgetrt.update import keys
    from edgetrt.update.desired import Desired, sign

    told = {
        "device": DEVICE,
        "generation": 4,
        "settings": {"street": {"rate_hz": 5.0}},
        "not_after": "2999-01-01T00:00:00Z",
    }
    signer = keys.signer(str(world.site.keys / "assignment-0.pem"))

    async def scenario(rig: Rig) -> None:
        rig.transport.deliver(DESIRED, sign(msgspec.convert(told, Desired), [signer]))
        await rig.until(lambda: rig.updating.report.newest == 4)

    drive(world, scenario)
    assert world.record() is None


def test_a_damaged_state_is_told_and_ends_nothing(world: World) -> None:
    world.root.mkdir(parents=True)
    (world.root / "update.json").write_bytes(b"{")

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: "cannot be used" in rig.updating.report.fault)
        rig.desire(0, 1)
        await asyncio.sleep(0.5)
        (world.root / "update.json").unlink()
        await rig.ended(Code.SUCCEEDED)  # what came in the meantime was not lost
        await rig.until(lambda: not rig.updating.report.fault)

    drive(world, scenario)


def test_a_download_makes_room_for_words_now_and_then_only(world: World) -> None:
    part, _ = world.updating()
    part.take(b"anything")
    with pytest.raises(UnreachableError, match="makes room"):
        part.progress(1, 2)

    part.take(b"anything else")
    part.progress(1, 2)


def test_what_is_refused_hastens_nothing(world: World) -> None:
    steps = []
    part, engines = world.updating()
    engines.done.clear()
    step = part._machine.step
    part._machine.step = lambda: steps.append(1) or step()  # type: ignore[method-assign, func-returns-value]
    part.take(world.site.assign(world.targets[0], 1))
    part._next()
    assert part.report.state == "BUILD"
    done, part._due_s = len(steps), time.monotonic() + 3600.0

    part.take(world.site.assign(world.targets[0], 9, key="targets-0"))
    assert part._next() == part._due_s
    part.take(b"{}")
    assert part._next() == part._due_s
    assert len(steps) == done
    assert part._assignments.refused["malformed"] == 1

    part._knock_s = 0.0
    part.take(world.site.assign(world.targets[1], 2))
    part._next()
    assert len(steps) > done


def test_what_was_signed_is_kept_while_the_disk_fails(world: World) -> None:
    part, _ = world.updating()
    (world.root / "trust").write_text("a file where a folder should be")
    envelope = world.site.assign(world.targets[0], 1)

    part.take(envelope)
    part._next()

    assert part._desired is not None
    assert part._desired[0] == envelope
    assert "trust" in part.report.fault
    assert "internal error" not in part.report.fault


def test_a_mistake_of_ours_is_told_and_ends_nothing(world: World) -> None:
    part, engines = world.updating()
    engines.done.clear()

    def broken(*_: object) -> None:
        raise LookupError("no such thing")

    engines.rest = broken  # type: ignore[method-assign]

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: "LookupError" in rig.updating.report.fault)
        await rig.until(lambda: bool(rig.reports()) and "LookupError" in rig.reports()[-1].fault)

    drive(world, scenario, part)


def test_while_another_process_works_on_updates_nothing_is_done(world: World) -> None:
    async def scenario(rig: Rig) -> None:
        with alone(world.root) as mine:
            assert mine
            rig.desire(0, 1)
            await rig.until(lambda: "another process" in rig.updating.report.fault)
            assert world.record() is None
        await rig.ended(Code.SUCCEEDED)

    world.root.mkdir(parents=True)
    with alone(world.root) as mine:
        assert mine
        part, _ = world.updating()
    drive(world, scenario, part)


def test_another_release_brings_other_demands(world: World) -> None:
    found: list[Mapping[str, Demand]] = []

    def demands() -> Mapping[str, Demand]:
        found.append({"street": Demand(30.0, "e")})
        return found[-1]

    part, _ = world.updating(demands=demands)

    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        await rig.ended(Code.SUCCEEDED)

    drive(world, scenario, part)
    assert len(found) == 2
    assert part.demands is found[-1]


def test_a_step_that_does_not_end_is_left_when_the_agent_stops(world: World) -> None:
    part, engines = world.updating()
    waiting, go = threading.Event(), threading.Event()

    def slow(folder: Path, release: Release) -> tuple[Check, ...]:
        waiting.set()
        go.wait(30)
        return ()

    engines.activate = slow  # type: ignore[method-assign]

    async def scenario(rig: Rig) -> None:
        rig.desire(0, 1)
        await rig.until(waiting.is_set)

    drive(world, scenario, part)
    record = world.record()
    go.set()
    for thread in threading.enumerate():
        if thread.name == "updates":
            thread.join(10)
    assert record is not None
    assert (record.state, record.code) == (State.ACTIVATE, None)

    async def again(rig: Rig) -> None:
        await rig.ended(Code.SUCCEEDED)

    drive(world, again)
