"""Certificates that end, that are another's, and that are renewed under a running agent."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgetrt.config import BrokerConfig
from edgetrt.mqtt import Backoff, MqttTransport, Settings
from edgetrt.mqtt.places import Places
from edgetrt.types import ConnectionState
from tests.authority import Authority
from tests.site import Site, site

pytestmark = pytest.mark.broker

QUICK = Settings(connect_timeout_s=3.0, connack_timeout_s=3.0, will_delay_s=0)


async def _until(config: BrokerConfig, wanted: Callable[[ConnectionState], bool]) -> str:
    async with MqttTransport(config, "cam-1", settings=QUICK, backoff=Backoff(0.02, 0.05)) as mqtt:
        async for state in mqtt.states():
            if wanted(state):
                return state.reason
    raise AssertionError("the states ended")


def refusal(config: BrokerConfig) -> str:
    """The first reason that is told for not being connected."""

    def told(state: ConnectionState) -> bool:
        assert not state.connected
        return "not connected yet" not in state.reason

    return asyncio.run(asyncio.wait_for(_until(config, told), 30))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


def as_device(at: Site, **changes: object) -> BrokerConfig:
    return msgspec.structs.replace(at.client("cam-1"), **changes)


def test_an_expired_certificate_is_called_that(here: Site) -> None:
    old = here.authority.issue("cam-1", from_days=-90, to_days=-1, file="expired")
    said = refusal(as_device(here, cert_file=str(old.cert), key_file=str(old.key)))
    assert "this device's certificate has expired" in said
    assert "provision --csr" in said


def test_a_certificate_of_another_authority_is_told(here: Site, tmp_path: Path) -> None:
    strange = Authority(tmp_path, "stranger").issue("cam-1")
    said = refusal(as_device(here, cert_file=str(strange.cert), key_file=str(strange.key)))
    assert "does not know the CA" in said


def test_no_certificate_where_one_is_wanted_is_told(here: Site) -> None:
    said = refusal(as_device(here, cert_file=None, key_file=None))
    assert "asks for a certificate" in said
    assert "cert_file" in said


def test_a_broker_of_another_authority_is_told(here: Site, tmp_path: Path) -> None:
    said = refusal(as_device(here, ca_file=str(Authority(tmp_path, "stranger").ca)))
    assert "Another CA signed it" in said


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({"hosts": ("broker.example",)}, "Set `broker.host`"),
        ({"hosts": ("127.0.0.1",), "from_days": -9.0, "to_days": -1.0}, "has expired"),
        ({"hosts": ("127.0.0.1",), "from_days": 20000.0, "to_days": 20001.0}, "clock says"),
    ],
)
def test_a_broker_with_a_certificate_that_does_not_do(
    tmp_path: Path, server: dict[str, object], words: str
) -> None:
    # Seen from 1970, today's certificates begin in fifty years.
    made = Site(tmp_path)
    made.authority.issue("broker", file="server", server=True, **server)  # type: ignore[arg-type]
    made.start()
    try:
        assert words in refusal(made.client("cam-1"))
    finally:
        made.stop()


def test_a_renewed_certificate_is_taken_at_the_next_connection(here: Site) -> None:
    old = here.authority.issue("cam-1", from_days=-90, to_days=-1, file="renewed")
    new = here.authority.issue("cam-1", file="fresh")
    config = as_device(here, cert_file=str(old.cert), key_file=str(old.key))

    async def scenario() -> None:
        async with MqttTransport(
            config, "cam-1", settings=QUICK, backoff=Backoff(0.02, 0.05)
        ) as mqtt:
            async for state in mqtt.states():
                if "expired" in state.reason:
                    shutil.copy(new.key, old.key)
                    shutil.copy(new.cert, old.cert)
                if state.connected:
                    return

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_half_a_renewal_changes_nothing_and_is_told_once(
    here: Site, caplog: pytest.LogCaptureFixture
) -> None:
    mine, new = here.authority.issue("cam-1", file="half"), here.authority.issue("cam-1", file="n")
    config = as_device(here, cert_file=str(mine.cert), key_file=str(mine.key))
    places = Places(config, "cam-1")
    before = places.current
    assert not places.refresh()
    shutil.copy(new.key, mine.key)
    with caplog.at_level(logging.WARNING, logger="edgetrt.mqtt"):
        assert not places.refresh()
        assert not places.refresh()
    assert places.current is before
    assert len(caplog.records) == 1
    assert "going on with those from before" in caplog.text
    shutil.copy(new.cert, mine.cert)
    assert places.refresh()
    assert places.current is not before
    assert not places.refresh()
