"""Updates from beginning to end: a repository, a broker, a device; what it takes, and what it refuses.

The device is the real agent and the real runtime; what is told of it is what a subscriber saw, and what
lies on its disk when its plug has been pulled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgetrt import wire
from edgetrt.config import BrokerConfig
from edgetrt.demo import update_site
from edgetrt.demo.listening import listening
from edgetrt.demo.update_device import DEVICE, Device
from edgetrt.demo.update_site import Recipe, Site
from edgetrt.demo.update_witness import Gap, Result, Witness
from edgetrt.errors import EdgetrtError
from edgetrt.mqtt import MqttTransport
from edgetrt.update import archive, built
from edgetrt.update.layout import Layout

START_S, UPDATE_S = 60.0, 120.0
"""How long the device may take to come up, and one update to end."""
_HELD_S = 2.0
"""For how long what must not happen is watched not to happen."""
_PULLS = ("BUILD", "PROVE")
"""States of the update in which the plug is pulled."""

Say = Callable[["Case"], None]


@dataclass(frozen=True)
class Case:
    """One update, and how it ended.

    Attributes:
        name: what was tried.
        wanted: how it has to end.
        code, reason, detail: how it did.
        serves: name of the release that serves then.
        way: its states, and when they were told, in seconds since the assignment.
        took_s: from the assignment to the end.
        serving_s: from the assignment to the first result of the new engine; None = there was none.
        gap: what the switch cost.
        notes: what else was seen.
        wrong: what should have been otherwise; empty = nothing.
    """

    name: str
    wanted: str
    code: str = ""
    reason: str = ""
    detail: str = ""
    serves: str = ""
    way: tuple[tuple[str, float], ...] = ()
    took_s: float = 0.0
    serving_s: float | None = None
    gap: Gap | None = None
    notes: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it ended as it has to."""
        return not self.wrong


class Play:
    """One showing.

    Args:
        site: makes releases.
        device: takes them.
        witness: sees what it publishes.
        transport: what the controller publishes with.
        say: is told of every case.
    """

    def __init__(
        self, site: Site, device: Device, witness: Witness, transport: MqttTransport, say: Say
    ) -> None:
        self._site, self._device, self._witness = site, device, witness
        self._transport, self._say = transport, say
        self._generation = 0
        self._targets: dict[str, str] = {}
        self.cases: list[Case] = []

    async def perform(self) -> None:
        """Show everything, one after the other.

        Raises:
            EdgetrtError: a process died, or nothing came of an update at all.
        """
        self._device.start()
        await self._witness.until(lambda: bool(self._witness.results), START_S, "the first result")
        await self._good("a good release", Recipe("1.0", seed=1))
        await self._forged("an assignment signed by a thief", Recipe("1.1", seed=2))
        await self._changed("a file changed on the web server", Recipe("1.2", seed=3))
        await self._bad("one that answers wrongly", Recipe("1.3", seed=4, wrong=True), "REJECTED")
        slow = Recipe("1.4", seed=1, slow=True)
        await self._bad("the same answers, much slower", slow, "ROLLED_BACK")
        await self._plug("the plug pulled, twice", Recipe("2.0", seed=5))
        await self._cached("back to the first, engines cached", "1.0")

    async def _good(self, name: str, recipe: Recipe) -> None:
        case, begun_s = await self._assigned(name, "SUCCEEDED", self._made(recipe))
        self._tell(await self._switched(case, begun_s, recipe.version))

    async def _bad(self, name: str, recipe: Recipe, wanted: str) -> None:
        before = self._witness.engine, self._witness.report.serving
        case, _ = await self._assigned(name, wanted, self._made(recipe))
        self._tell(await self._unchanged(case, *before))

    async def _changed(self, name: str, recipe: Recipe) -> None:
        """Whoever has the web server changes one byte of a release that was signed."""
        before = self._witness.engine, self._witness.report.serving
        target = self._made(recipe)
        path = self._site.stored(target)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        case, _ = await self._assigned(name, "REJECTED", target)
        self._tell(await self._unchanged(case, *before))

    async def _forged(self, name: str, recipe: Recipe) -> None:
        """Whoever has the broker's password assigns what they like, with a key of their own."""
        witness, target = self._witness, self._made(recipe)
        before = witness.engine, witness.report.serving
        refused = witness.report.refused.get("signature", 0)
        begun_s = time.monotonic()
        await self._publish(self._site.assign(DEVICE, target, 99, thief=True))

        def counted() -> bool:
            return witness.report.refused.get("signature", 0) > refused

        await witness.until(counted, UPDATE_S, name)
        told = "not signed by the assignment key: counted, and nothing else"
        case = Case(name, "refused", "refused", "signature", told)
        case = replace(case, took_s=time.monotonic() - begun_s)
        self._tell(await self._unchanged(case, *before))

    async def _plug(self, name: str, recipe: Recipe) -> None:
        """The power goes in the middle, and comes back: it finishes by itself."""
        witness, target = self._witness, self._made(recipe)
        allowed = {witness.report.serving, self._site.digest(target)}
        begun_s = time.monotonic()
        generation = await self._assign(target)
        notes, wrong = [], list[str]()
        for state in _PULLS:

            def there(state: str = state) -> bool:
                now = witness.report
                return now.generation == generation and (now.state == state or bool(now.code))

            await witness.until(there, UPDATE_S, f"{name}: {state}")
            self._device.pull_plug()
            serves, fault = _whole(self._device.updates)
            at = f"{witness.report.state} {witness.report.code}".strip()
            notes.append(f"pulled in {at}: {self._name(serves)} on the disk, whole")
            if fault or serves not in allowed:
                wrong.append(f"pulled in {at}: {fault or serves}")
            self._device.start()
            await witness.more(len(witness.results), START_S, f"{name}: back")
        case = await self._ended(Case(name, "SUCCEEDED", notes=tuple(notes)), generation, begun_s)
        case = await self._switched(replace(case, wrong=(*case.wrong, *wrong)), begun_s, "2.0")
        self._tell(replace(case, gap=None, serving_s=None))

    async def _cached(self, name: str, version: str) -> None:
        case, begun_s = await self._assigned(name, "SUCCEEDED", self._targets[version])
        self._tell(await self._switched(case, begun_s, version))

    def _made(self, recipe: Recipe) -> str:
        target = self._site.release(recipe)
        self._targets[recipe.version] = target
        return target

    async def _assigned(self, name: str, wanted: str, target: str) -> tuple[Case, float]:
        begun_s = time.monotonic()
        generation = await self._assign(target)
        return await self._ended(Case(name, wanted), generation, begun_s), begun_s

    async def _assign(self, target: str) -> int:
        self._generation += 1
        await self._publish(self._site.assign(DEVICE, target, self._generation))
        return self._generation

    async def _publish(self, envelope: bytes) -> None:
        await self._transport.publish(wire.desired(DEVICE), envelope, retain=True)

    async def _ended(self, case: Case, generation: int, begun_s: float) -> Case:
        """Wait for the device's last word on an assignment."""
        witness = self._witness

        def over() -> bool:
            return witness.report.generation == generation and bool(witness.report.code)

        await witness.until(over, UPDATE_S, case.name)
        now = witness.report
        wrong = () if now.code == case.wanted else (f"{now.code}, expected {case.wanted}",)
        return replace(
            case,
            code=now.code,
            reason=now.reason,
            detail=now.detail,
            serves=self._name(now.serving),
            way=witness.way(generation, begun_s),
            took_s=time.monotonic() - begun_s,
            wrong=(*case.wrong, *wrong),
        )

    async def _switched(self, case: Case, begun_s: float, version: str) -> Case:
        """Look whether results come from the engine that was built for a release."""
        witness = self._witness
        digest = self._site.digest(self._targets[version])
        made = built.read(self._device.updates, digest)
        engine = made.pipelines[0].engine if made and made.pipelines else ""

        def first() -> Result | None:
            found = (one for one in witness.results if one.arrived_s >= begun_s and one.engine)
            return next((one for one in found if engine.startswith(one.engine)), None)

        wrong = [] if witness.report.serving == digest else [f"{case.serves} serves"]
        with contextlib.suppress(EdgetrtError):
            await witness.until(lambda: first() is not None, _HELD_S, case.name)
        found = first()
        if found is None or not engine.startswith(witness.engine):
            return replace(case, wrong=(*case.wrong, *wrong, "results come from another engine"))
        return replace(
            case,
            serving_s=found.arrived_s - begun_s,
            gap=witness.gap_at(found),
            notes=(*case.notes, f"results carry engine {found.engine[:12]}"),
            wrong=(*case.wrong, *wrong),
        )

    async def _unchanged(self, case: Case, engine: str, serving: str) -> Case:
        """Look whether what served before serves on."""
        witness, seen = self._witness, len(self._witness.results)
        await asyncio.sleep(_HELD_S)
        wrong = list(case.wrong)
        if len(witness.results) == seen:
            wrong.append("no results any more")
        if witness.engine != engine or witness.report.serving != serving:
            wrong.append("something else serves")
        serves = self._name(witness.report.serving)
        notes = (*case.notes, f"results go on from engine {engine[:12]}")
        return replace(case, serves=serves, notes=notes, wrong=tuple(wrong))

    def _name(self, digest: str) -> str:
        names = {self._site.digest(target): target for target in self._targets.values()}
        return names.get(digest, digest[:12] or "the device's own file")

    def _tell(self, case: Case) -> None:
        self.cases.append(case)
        self._say(case)


async def show(folder: Path, broker: BrokerConfig, say: Say) -> list[Case]:
    """Set everything up in a folder, show it, and end every process.

    Raises:
        EdgetrtError: a part did not start, or an update never ended.
    """
    site = Site(folder)
    home = folder / "device"
    home.mkdir()
    with update_site.serving(site.public) as address:
        device = Device(home, broker, site.root, address)
        async with watching(broker, device) as (witness, transport):
            play = Play(site, device, witness, transport, say)
            try:
                await play.perform()
            finally:
                await asyncio.to_thread(device.close)
    return play.cases


@contextlib.asynccontextmanager
async def watching(
    broker: BrokerConfig, device: Device
) -> AsyncIterator[tuple[Witness, MqttTransport]]:
    """A connection of our own, for what the controller says and for what an outsider sees."""
    witness = Witness(alive=device.ended)
    async with listening(broker, "demo-controller", DEVICE, witness.take, START_S) as transport:
        yield witness, transport


def _whole(updates: Path) -> tuple[str, str]:
    """Digest of the release that the disk says serves, and what is wrong with it; empty = nothing."""
    layout = Layout(updates)
    serves = layout.current()
    if not serves:
        return "", ""
    folder = layout.release(serves)
    for name, stored in archive.read(folder).files.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != stored.sha256:
            return serves, f"{name} is damaged"
    return serves, ""
