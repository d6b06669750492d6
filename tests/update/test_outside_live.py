"""Mender and hawkBit on a whole device: the real agent takes what they bring, and they hear the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")
pytest.importorskip("onnxruntime")

from edgetrt.update import bundle
from tests.update import live
from tests.update.device import DEVICE
from tests.update.outside import TOKEN, hawkbit_server
from tests.update.test_live import Scene, scene
from tests.update.test_mender import MODULE

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(600)]


def packed(site: Scene, folder: Path, seed: int, generation: int) -> tuple[Path, str]:
    """A bundle of a release, and its digest."""
    target = site.press.release(seed)
    path = folder / f"{seed}.edgetrt"
    envelope = site.press.assign(target, generation)
    bundle.write(site.press.site.repository, target, [envelope], path)
    return path, site.press.digests[target]


def test_hawkbit_then_mender(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        device = site.device
        first, digest = packed(site, tmp_path, 1, 1)
        token = tmp_path / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        with hawkbit_server() as server:
            server.assign("8", first)
            command = [sys.executable, "-m", "edgetrt", "hawkbit", "--url", server.url]
            files = ["--token-file", str(token), "--config", str(device.folder / "agent.yaml")]
            with subprocess.Popen([*command, *files], env=device.environment) as client:
                try:
                    live.until(lambda: server.status != "running", 120, device.told)
                finally:
                    client.terminate()
            assert server.status == "finished", server.told
            assert client.returncode == 0
            assert server.attributes is not None
            assert server.attributes["edgetrt.device"] == DEVICE
        assert device.serving() == digest

        second, newer = packed(site, tmp_path, 2, 2)
        payload = tmp_path / "0000/files"
        payload.mkdir(parents=True)
        second.rename(payload / second.name)
        launcher = tmp_path / "edgetrt"
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgetrt "$@"\n')
        launcher.chmod(0o755)
        names = {"EDGETRT": str(launcher), "EDGETRT_CONFIG": str(device.folder / "agent.yaml")}
        environment = {**os.environ, **device.environment, **names}

        def mender(state: str) -> int:
            where: list[str | Path] = [MODULE, state, payload.parent]
            return subprocess.run(where, env=environment, timeout=200, check=False).returncode

        assert mender("ArtifactInstall") == 0
        assert mender("ArtifactCommit") == 0
        assert device.serving() == newer
        assert mender("ArtifactRollback") == 0  # another payload of the artifact failed
        assert mender("Cleanup") == 0
        assert device.serving() == digest
        assert list((device.root / "inbox").iterdir()) == []
