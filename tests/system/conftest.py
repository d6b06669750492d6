"""Options of the slow tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--messages", type=int, default=1_000_000, help="of the chaos test")
    parser.addoption("--kills", type=int, default=1000, help="of processes, during updates")
    parser.addoption("--seed", type=int, help="of the kills; without it another one each time")
    parser.addoption("--tally", help="file with kills and ends; runs that share it go on with it")
    parser.addoption(
        "--plan", help="kills of one update to repeat, as a failed run has printed them"
    )
    parser.addoption(
        "--cuts", type=int, default=10, help="of a booted device's power, during updates"
    )
