"""A million messages through a bad network to a broker that comes and goes; prints the table."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.chaos import Network, drive, faults, ledger, table
from tests.site import site

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.timeout(4 * 3600)]

MIX = ("reset", "flip", "latency", "refuse", "reset", "throttle", "restart", "silent")
HALF_OPEN = 4
"""How often a wire stays open and dead: each costs the keep-alive and its answer, 5 to 10 s."""


def test_what_is_acknowledged_arrives(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--messages", default=1_000_000)
    chance = random.Random(2026)
    names = [*MIX * max(1, min(25, count // 10_000)), *["half_open"] * HALF_OPEN]
    chance.shuffle(names)
    endless = ("max_queued_messages 0", "max_queued_bytes 0")
    with site(tmp_path, *endless) as broker, ledger(broker) as got:
        network = Network(broker.port, chance)
        plan = faults(broker, network, names)
        sent = asyncio.run(drive(broker, network, tmp_path, count, plan, got))
        lost = got.settle(sent, quiet_s=60.0)
        told = table(sent, got, plan)
        print(f"\n{told}")
        assert sum(sent.acknowledged) == count, told
        assert lost == [], f"{told}\nlost {lost[:50]}"
        assert got.distinct == count, told
        assert got.disorder == [], f"{told}\n{got.disorder}"
