"""The hawkBit client against a server that answers as hawkBit's DDI does."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt.errors import ConfigError, EdgetrtError, UnreachableError, UpdateError
from edgetrt.update.ddi import Ddi, token
from edgetrt.update.desired import Policy
from edgetrt.update.handover import Handover
from edgetrt.update.hawkbit import Hawkbit
from edgetrt.update.states import Code, State
from tests.update.device import DEVICE, Device
from tests.update.outside import TENANT, TOKEN, Server, Shop, agent, hawkbit_server


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def good(shop: Shop) -> Path:
    return shop.bundle("1.0", 1)


@pytest.fixture
def server() -> Iterator[Server]:
    with hawkbit_server() as known:
        yield known


def client(server: Server, folder: Path, secret: str = TOKEN) -> Hawkbit:
    update = folder / "update"
    update.mkdir(parents=True, exist_ok=True)
    ddi = Ddi(server.url, TENANT, DEVICE, secret)
    return Hawkbit(ddi, Handover(update, DEVICE, 5.0), update, lambda: {"edgetrt.device": DEVICE})


def followed(one: Hawkbit, server: Server) -> str:
    """Follow an update until the server has heard the end."""
    for _ in range(1000):
        one.follow()
        if server.status != "running":
            return server.status
        time.sleep(0.01)
    raise AssertionError(f"never over: {server.told}")


def test_a_bundle_of_the_server_is_taken_and_told(
    server: Server, good: Path, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    assert one.poll() == 30.0
    assert server.attributes == {"edgetrt.device": DEVICE}
    assert server.told == []

    server.assign("8", good)
    with agent(tmp_path, shop.root):
        one.poll()
        assert followed(one, server) == "finished"

    kinds = {(kind, execution, how) for kind, execution, how, _ in server.told[:-1]}
    assert kinds == {("deploymentBase", "proceeding", "none")}
    assert server.told[-1][:3] == ("deploymentBase", "closed", "success")
    assert "SUCCEEDED" in server.told[-1][3][0]
    device = Device(tmp_path, shop.root)
    assert device.layout.current() == device.record().digest
    assert {login for *_, login in server.asked} == {f"TargetToken {TOKEN}"}
    assert list((tmp_path / "update/inbox").iterdir()) == []
    assert list((tmp_path / "update/hawkbit").iterdir()) == []


def test_a_release_that_breaks_its_promise_is_an_error_with_its_verdict(
    server: Server, good: Path, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    server.assign("8", good)
    with agent(tmp_path, shop.root, good=False):
        one.poll()
        assert followed(one, server) == "error"

    kind, execution, how, words = server.told[-1]
    assert (kind, execution, how) == ("deploymentBase", "closed", "failure")
    assert "ROLLED_BACK" in words[0]
    assert "fps: 11.5 Hz, limit >= 20 Hz: NOT OK" in words
    assert Device(tmp_path, shop.root).layout.current() == ""


def test_a_bundle_signed_by_others_is_refused(
    server: Server, good: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The server's word is no signature: a device of another owner takes nothing of it."""
    other = Shop(tmp_path_factory.mktemp("other"))
    one = client(server, tmp_path)
    server.assign("8", good)
    with agent(tmp_path, other.root):
        one.poll()
        assert followed(one, server) == "error"

    words = " ".join(server.told[-1][3])
    assert "REJECTED" in words
    assert "signature" in words or "metadata" in words
    assert Device(tmp_path, other.root).layout.current() == ""


def test_what_is_no_bundle_or_not_for_this_device_is_refused_at_once(
    server: Server, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    foreign = shop.bundle("7.0", 1, device="cam-2")
    noise = tmp_path / "noise.edgetrt"
    noise.write_bytes(b"noise" * 1000)
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"no bundle")
    for action, files, why in (
        ("1", [foreign], "REJECTED foreign"),
        ("2", [noise], "FAILED bundle"),
        ("3", [picture], "FAILED bundle"),
        ("4", [], "FAILED bundle"),
        ("5", [noise, foreign], "FAILED bundle"),
    ):
        server.assign(action, *files)
        one.poll()
        assert server.status == "error", action
        assert why in " ".join(server.told[-1][3]).replace(":", "")
    assert not (tmp_path / "update/update.json").exists()


def test_a_file_other_than_announced_is_refused(server: Server, good: Path, tmp_path: Path) -> None:
    one = client(server, tmp_path)
    server.assign("8", good)
    server.lie = good.read_bytes()[:-1] + b"x"
    one.poll()

    assert server.status == "error"
    assert "sha256" in " ".join(server.told[-1][3])


def test_a_download_goes_on_where_it_stopped(
    server: Server, good: Path, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    server.assign("8", good)
    server.cut_at = 4000
    with pytest.raises(UnreachableError):
        one.poll()
    one = client(server, tmp_path)  # after a restart
    with agent(tmp_path, shop.root):
        one.poll()
        assert followed(one, server) == "finished"

    assert [ranges for _, path, ranges, _ in server.asked if path.endswith(".edgetrt")] == [
        "",
        "bytes=4000-",
    ]


def test_a_cancel_before_the_switch_is_confirmed(
    server: Server, shop: Shop, tmp_path: Path
) -> None:
    waits = shop.bundle("2.0", 2, policy=Policy(ask=True))
    one = client(server, tmp_path)
    server.assign("8", waits)
    with agent(tmp_path, shop.root):
        one.poll()
        for _ in range(500):
            one.follow()
            if any("waits: a person's word" in " ".join(words) for *_, words in server.told):
                break
            time.sleep(0.01)
        server.canceling = True
        one.poll()
        assert followed(one, server) == "canceled"

    assert server.told[-1][:3] == ("cancelAction", "closed", "success")
    assert Device(tmp_path, shop.root).record().code is Code.CANCELED


def test_a_cancel_behind_the_switch_is_refused_and_the_end_told(
    server: Server, good: Path, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    server.assign("8", good)
    one.poll()
    device = Device(tmp_path, shop.root)
    device.machine.step()
    device.until(State.PROVE)
    server.canceling = True
    one.poll()

    assert server.told[-1][:3] == ("cancelAction", "rejected", "none")
    assert "the switch has begun" in server.told[-1][3][0]
    assert device.settle().code is Code.SUCCEEDED
    one.poll()
    assert server.told[-1][:3] == ("deploymentBase", "closed", "success")
    assert device.layout.current() == device.record().digest


def test_a_cancel_that_comes_too_late_is_refused(
    server: Server, good: Path, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    server.assign("8", good)
    with agent(tmp_path, shop.root):
        one.poll()
        assert followed(one, server) == "finished"
    server.status, server.canceling = "running", True  # it crossed our last word
    one.poll()

    assert server.told[-1][:3] == ("cancelAction", "rejected", "none")
    one.poll()
    assert server.status == "finished"


def test_a_cancel_of_what_never_began_is_confirmed(server: Server, tmp_path: Path) -> None:
    server.assign("8")
    server.canceling = True
    client(server, tmp_path).poll()

    assert server.status == "canceled"


def test_the_servers_window_holds_what_was_downloaded(
    server: Server, good: Path, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    server.assign("8", good)
    server.download, server.window = "skip", "unavailable"
    one.poll()
    assert not any(path.endswith(".edgetrt") for _, path, *_ in server.asked)
    server.download = "attempt"
    for _ in range(2):
        one.poll()
    assert [said[1] for said in server.told] == ["proceeding", "downloaded"]
    assert not (tmp_path / "update/request.json").exists()

    server.window = "available"
    with agent(tmp_path, shop.root):
        one.poll()
        assert followed(one, server) == "finished"
    downloads = [path for _, path, *_ in server.asked if path.endswith(".edgetrt")]
    assert len(downloads) == 1


def test_the_last_word_is_said_until_it_is_heard(
    server: Server, good: Path, shop: Shop, tmp_path: Path
) -> None:
    one = client(server, tmp_path)
    server.assign("8", good)
    with agent(tmp_path, shop.root):
        one.poll()
        server.broken = 503
        for _ in range(500):
            if (record := Device(tmp_path, shop.root).store.load().record) and record.code:
                break
            time.sleep(0.01)
        with pytest.raises(UnreachableError):
            one.follow()
    server.broken = 0
    again = client(server, tmp_path)  # after a restart
    again.poll()

    assert server.status == "finished"


def test_a_wrong_token_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UpdateError) as refused:
        client(server, tmp_path, "another").poll()

    assert refused.value.code == "login"


def test_the_token_goes_to_no_other_server(server: Server, good: Path, tmp_path: Path) -> None:
    """An artifact may lie elsewhere: it is fetched from there, and without the token."""
    with hawkbit_server() as elsewhere:
        elsewhere.files = [good]
        server.assign("8", good)
        one = client(server, tmp_path)
        own, server.url = server.url, elsewhere.url
        artifacts = server.deployment
        server.url = own

        def lead_away() -> dict[str, object]:
            server.url = elsewhere.url
            told = artifacts()
            server.url = own
            return told

        server.deployment = lead_away  # type: ignore[method-assign]
        one.poll()
        assert [login for *_, login in elsewhere.asked] == [""]


def test_a_server_away_is_asked_later_and_less_often(tmp_path: Path) -> None:
    stop, said = threading.Event(), list[EdgetrtError]()

    def say(error: EdgetrtError) -> None:
        said.append(error)
        stop.set()

    client(Server(url="http://127.0.0.1:1"), tmp_path).run(stop, say)

    assert [type(error) for error in said] == [UnreachableError]


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="0644"):
        token(path)
    path.chmod(0o600)
    assert token(path) == TOKEN
    path.write_text("")
    with pytest.raises(ConfigError):
        token(path)
    with pytest.raises(ConfigError):
        token(tmp_path / "none")


@pytest.fixture
def somebodys() -> Iterator[Path]:
    """A folder of updates that is a service's, in one that everybody can enter; for root alone."""
    if os.geteuid() != 0:
        pytest.skip("only root works in other people's folders")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "update"
        folder.mkdir()
        os.chown(folder, 12345, 12345)
        yield folder


def test_what_root_hands_over_belongs_to_the_agent(good: Path, somebodys: Path) -> None:
    Handover(somebodys, DEVICE).give(good)

    assert len(list(somebodys.rglob("*"))) == 3
    assert {path.stat().st_uid for path in somebodys.rglob("*")} == {12345}


def test_a_link_that_the_agent_planted_leads_root_nowhere(good: Path, somebodys: Path) -> None:
    roots = somebodys.parent / "roots"
    roots.mkdir(mode=0o700)
    (somebodys / "inbox").symlink_to(roots)
    with pytest.raises(UpdateError) as refused:
        Handover(somebodys, DEVICE).give(good)

    assert refused.value.code == "disk"
    assert list(roots.iterdir()) == []
    assert os.geteuid() == 0


def test_an_inbox_is_not_emptied_where_a_link_leads(good: Path, somebodys: Path) -> None:
    roots = somebodys.parent / "roots"
    (roots / "inbox").mkdir(parents=True)
    (roots / "inbox/kept").write_text("root's")
    somebodys.rmdir()
    os.chown(somebodys.parent, 12345, 12345)
    somebodys.symlink_to(roots)
    with pytest.raises(UpdateError) as refused:
        Handover(somebodys, DEVICE).give(good)

    assert refused.value.code == "disk"
    assert [path.name for path in roots.rglob("*")] == ["inbox", "kept"]
    assert os.geteuid() == 0
