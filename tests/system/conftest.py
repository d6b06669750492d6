"""Options of the slow tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--messages", type=int, default=1_000_000, help="of the chaos test")
    parser.addoption("--kills", type=int, default=1000, help="of the agent, during updates")
    parser.addoption(
        "--cuts", type=int, default=10, help="of a booted device's power, during updates"
    )
