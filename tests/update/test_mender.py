"""Mender's update module, called as Mender calls it: a state, a folder with the payload in `files/`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt.update.states import Code
from tests.cli.command import ROOT
from tests.update.device import Device
from tests.update.outside import Shop, agent

MODULE = ROOT / "services/mender/edgetrt"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("shop"))
    made.bundle("1.0", 1)
    made.bundle("2.0", 2)
    made.bundle("3.0", 3, device="cam-2")
    return made


class Mender:
    """Mender's side: its folder, and its way of walking through the states."""

    def __init__(self, folder: Path, root: bytes) -> None:
        self.folder, self.files = folder, folder / "0000"
        (self.files / "files").mkdir(parents=True)
        (folder / "root.json").write_bytes(root)
        (folder / "agent.yaml").write_text("device: cam-1\nupdate: {root: root.json}\n")
        state = folder / "update"
        state.mkdir(exist_ok=True)
        launcher = folder / "edgetrt"
        options = f"--config {folder}/agent.yaml --folder {state} --taken-s 5"
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgetrt "$@" {options}\n')
        launcher.chmod(0o755)
        self.said = ""

    def load(self, bundle: Path) -> None:
        for path in (self.files / "files").iterdir():
            path.unlink()
        shutil.copy(bundle, self.files / "files")

    def call(self, state: str, *more: str) -> tuple[int, str]:
        done = subprocess.run(
            [MODULE, state, *more],
            cwd=self.files,
            env={**os.environ, "EDGETRT": str(self.folder / "edgetrt"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.said += done.stderr
        return done.returncode, done.stdout

    def state(self, name: str) -> int:
        return self.call(name, str(self.files))[0]

    def deploy(self, bundle: Path) -> list[str]:
        """Walk the states as the protocol tells; returns those that were entered and what failed."""
        self.load(bundle)
        walked = []
        for name in ("Download", "ArtifactInstall", "ArtifactCommit"):
            walked.append(name)
            if self.state(name) != 0:
                walked[-1] += "!"
                assert self.call("SupportsRollback") == (0, "Yes\n")
                walked.append("ArtifactRollback" + "!" * (self.state("ArtifactRollback") != 0))
                assert self.state("ArtifactFailure") == 0
                break
            if name == "ArtifactInstall":
                assert self.call("NeedsArtifactReboot") == (0, "No\n")
        assert self.state("Cleanup") == 0
        return walked


@pytest.mark.slow
def test_two_deployments_and_what_is_asked_besides(shop: Shop, tmp_path: Path) -> None:
    mender = Mender(tmp_path, shop.root)
    with agent(tmp_path, shop.root):
        for version in ("1.0", "2.0"):
            walked = mender.deploy(shop.folder / f"{version}-cam-1.edgetrt")
            assert walked == ["Download", "ArtifactInstall", "ArtifactCommit"], mender.said
    device = Device(tmp_path, shop.root)

    assert device.layout.current() == device.record().digest
    assert "generation 2: SUCCEEDED" in mender.said
    assert list((tmp_path / "update/inbox").iterdir()) == []
    for unknown in ("ProvidePayloadFileSizes", "SupportsAugmentedArtifacts", "NewInVersion9"):
        assert mender.call(unknown) == (0, "")


@pytest.mark.slow
def test_a_release_that_breaks_its_promise_fails_the_install(shop: Shop, tmp_path: Path) -> None:
    mender = Mender(tmp_path, shop.root)
    with agent(tmp_path, shop.root, good=False):
        walked = mender.deploy(shop.folder / "1.0-cam-1.edgetrt")

    assert walked == ["Download", "ArtifactInstall!", "ArtifactRollback"]
    assert "ROLLED_BACK" in mender.said
    assert "fps: 11.5 Hz, limit >= 20 Hz: NOT OK" in mender.said
    assert Device(tmp_path, shop.root).layout.current() == ""


@pytest.mark.slow
def test_mender_takes_a_good_release_back_when_another_payload_fails(
    shop: Shop, tmp_path: Path
) -> None:
    mender = Mender(tmp_path, shop.root)
    with agent(tmp_path, shop.root):
        mender.deploy(shop.folder / "1.0-cam-1.edgetrt")
        before = Device(tmp_path, shop.root).layout.current()
        mender.load(shop.folder / "2.0-cam-1.edgetrt")
        assert mender.state("ArtifactInstall") == 0
        assert mender.state("ArtifactRollback") == 0
        assert mender.state("ArtifactRollback") == 0  # power went, and it is asked again
        assert mender.state("Cleanup") == 0
    device = Device(tmp_path, shop.root)

    assert device.layout.current() == before
    assert device.record().code is Code.ROLLED_BACK


@pytest.mark.slow
def test_what_is_not_for_this_device_or_no_bundle_fails(shop: Shop, tmp_path: Path) -> None:
    mender = Mender(tmp_path, shop.root)
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise" * 999)
    with agent(tmp_path, shop.root):
        mender.load(shop.folder / "3.0-cam-2.edgetrt")
        assert mender.state("ArtifactInstall") == 77
        assert "for cam-2, this is 'cam-1'" in mender.said
        mender.load(noise)
        assert mender.state("ArtifactInstall") == 65
        assert mender.state("Cleanup") == 0
    assert "Traceback" not in mender.said
    assert not (tmp_path / "update/update.json").exists()


@pytest.mark.slow
def test_without_an_agent_the_install_fails_and_leaves_nothing_behind(
    shop: Shop, tmp_path: Path
) -> None:
    mender = Mender(tmp_path, shop.root)
    mender.load(shop.folder / "1.0-cam-1.edgetrt")

    assert mender.state("ArtifactInstall") == 65
    assert "Is the agent running" in mender.said
    assert mender.state("ArtifactRollback") == 0
    assert mender.state("Cleanup") == 0
    assert not (tmp_path / "update/request.json").exists()
    assert list((tmp_path / "update/inbox").iterdir()) == []


@pytest.mark.slow
def test_a_bundle_of_another_owner_is_refused(
    shop: Shop, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Shop(tmp_path_factory.mktemp("other"))
    mender = Mender(tmp_path, other.root)
    with agent(tmp_path, other.root):
        walked = mender.deploy(shop.folder / "1.0-cam-1.edgetrt")

    assert walked == ["Download", "ArtifactInstall!", "ArtifactRollback"]
    assert "REJECTED" in mender.said
    assert Device(tmp_path, other.root).layout.current() == ""
