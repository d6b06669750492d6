"""`edgetrt doctor`: it logs in where the agent would, and tells what the agent would be told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.broker import running
from tests.cli.command import edgetrt


def broker_finding(*arguments: object) -> dict[str, Any]:
    report = edgetrt("doctor", *arguments, "--json").json()
    assert all(one["fix"] for one in report["findings"] if one["state"] != "ok")
    found: dict[str, Any] = next(one for one in report["findings"] if one["name"] == "broker")
    return found


@pytest.mark.broker
def test_it_logs_in_with_the_login_of_the_config(tmp_path: Path) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    users, config = tmp_path / "users", tmp_path / "agent.yaml"
    subprocess.run([tool, "-c", "-b", str(users), "cam-1", "right"], check=True)
    for secret in ("right", "wrong"):
        (tmp_path / secret).write_text(secret)
        (tmp_path / secret).chmod(0o600)
    with running(tmp_path, f"password_file {users}", anonymous=False) as broker:
        login = f"broker: {{port: {broker.port}, username: cam-1, password_file: "
        config.write_text(f"{login}right}}\n")
        well = broker_finding("--config", config)
        config.write_text(f"{login}wrong}}\n")
        ill = broker_finding("--config", config)
        unnamed = broker_finding("--broker", f"127.0.0.1:{broker.port}")

    assert (well["state"], "lets 'cam-1' in" in well["value"]) == ("ok", True)
    assert (ill["state"], "refused the connection" in ill["value"]) == ("problem", True)
    assert "password_file" in ill["fix"]
    assert (unnamed["state"], "--config" in unnamed["fix"]) == ("absent", True)
