"""Two agents with one identity, as after a copied memory card: it is told which, and how often."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgetrt import wire
from edgetrt.agent.duplicates import DuplicateIdentity
from edgetrt.agent.entry import Moment
from edgetrt.agent.identity import Identity
from edgetrt.agent.inbound import Inbound
from edgetrt.agent.session import Session, status
from edgetrt.errors import MessageError
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from tests.chaos import DEVICE
from tests.fakes import FakeMessage
from tests.site import Site, site

HOUR_NS = 3600 * 10**9
ME = Identity(DEVICE, 7)


def kept(epoch: int, online: bool = True, at: float = 1.8e9, retained: bool = True) -> FakeMessage:
    """A status as the broker kept it."""
    topic, payload = status(Identity(DEVICE, epoch), online, "connected" if online else "lost", at)
    return FakeMessage(topic, payload, retained=retained)


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0
        self.duplicates = DuplicateIdentity(ME, lambda: Moment(1.8e9, self.now_ns, "b"))


def test_another_birth_in_the_place_of_ours_is_another_agent() -> None:
    clock = Clock()
    clock.duplicates.said(kept(7).payload)
    clock.duplicates.heard(kept(70))
    assert clock.duplicates.reasons() == ()
    clock.duplicates.heard(kept(71))
    (reason,) = clock.duplicates.reasons()
    assert (reason.state, reason.code, reason.about) == ("degraded", "identity", "broker")
    assert "2 times in the last hour, epoch 70, 71; this one's epoch is 7" in reason.text
    clock.now_ns = HOUR_NS + 1
    assert clock.duplicates.reasons() == ()


def test_a_copied_card_has_the_same_epoch_and_is_found_all_the_same() -> None:
    clock = Clock()
    clock.duplicates.said(kept(7, at=1.8e9).payload)
    for _ in range(2):
        clock.duplicates.heard(kept(7, at=1.8e9 + 5))
    assert len(clock.duplicates.reasons()) == 1


def test_what_is_no_other_agent() -> None:
    clock = Clock()
    # Of the run before, which was killed.
    clock.duplicates.heard(kept(6))
    clock.duplicates.said(kept(7).payload)
    for _ in range(3):
        clock.duplicates.heard(kept(7))
        clock.duplicates.heard(kept(7, online=False, at=1.8e9 + 1))
        clock.duplicates.heard(kept(6, online=False))
        clock.duplicates.heard(kept(8, retained=False))
    with pytest.raises(MessageError):
        clock.duplicates.heard(FakeMessage(wire.status(DEVICE), b"{}", retained=True))
    assert clock.duplicates.reasons() == ()


def test_a_broker_that_says_so_is_believed() -> None:
    clock = Clock()
    clock.duplicates.taken_over()
    clock.duplicates.taken_over()
    assert len(clock.duplicates.reasons()) == 1


@pytest.mark.broker
def test_at_a_real_broker_both_find_the_other(tmp_path: Path) -> None:
    async def agent(at: Site, epoch: int, told: dict[int, tuple[wire.Reason, ...]]) -> None:
        def now() -> Moment:
            return Moment(1.8e9, 0, "b")

        who = Identity(DEVICE, epoch)
        duplicates = DuplicateIdentity(who, now)
        transport = MqttTransport(
            at.client(DEVICE),
            DEVICE,
            recalled=(wire.status(DEVICE),),
            settings=Settings(will_delay_s=30),
            backoff=Backoff(0.05, 0.1),
        )
        session = Session(who, transport, now, lambda: (), lambda: None, duplicates=duplicates)
        inbound = Inbound(DEVICE, transport, {"status": duplicates.heard})
        async with transport:
            work = [asyncio.create_task(session.run()), asyncio.create_task(inbound.run())]
            while len(told) < 2:
                if reasons := duplicates.reasons():
                    told[epoch] = reasons
                await asyncio.sleep(0.02)
            for task in work:
                task.cancel()
            await asyncio.wait(work)

    async def scenario(at: Site) -> dict[int, tuple[wire.Reason, ...]]:
        told: dict[int, tuple[wire.Reason, ...]] = {}
        await asyncio.wait_for(asyncio.gather(agent(at, 7, told), agent(at, 70, told)), 60)
        return told

    with site(tmp_path) as broker:
        told = asyncio.run(scenario(broker))
    assert "epoch 70; this one's epoch is 7" in told[7][0].text
    assert "epoch 7; this one's epoch is 70" in told[70][0].text
