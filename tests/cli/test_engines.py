from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgetrt.cli.engines import app, quantity
from edgetrt.engine.cache import Cache
from edgetrt.errors import ConfigError, EngineMismatchError

A, B = "a1" * 32, "b2" * 32


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "engines")
    for name, model in ((A, "person [v2]"), (B, "cat")):
        fields = {
            "toolchain.flavour": "tensorrt",
            "toolchain.version": "10.3.0",
            "spec.precision": "int8",
            "spec.dla": True,
        }
        cache.put(name, {"engine.plan": b"plan"}, "engine.plan", fields, {"name": model})
    return cache


def call(cache: Cache, *args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*args, "--cache", str(cache.root)], terminal_width=200)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code
    return result.stdout


def test_ls(cache: Cache) -> None:
    rows = {row["fingerprint"]: row for row in json.loads(call(cache, "ls", "--json"))["engines"]}
    assert set(rows) == {A, B}
    assert rows[A]["name"] == "person [v2]"
    assert rows[A]["toolchain"] == "tensorrt 10.3.0"
    assert rows[A]["problem"] is None
    table = call(cache, "ls")
    assert A[:12] in table
    assert A not in table


def test_an_empty_cache(tmp_path: Path) -> None:
    assert "No engines" in call(Cache(tmp_path / "none"), "ls")


def test_show(cache: Cache) -> None:
    manifest = json.loads(call(cache, "show", A[:6], "--json"))
    assert manifest["fingerprint"] == A
    assert manifest["fields"]["spec.precision"] == "int8"
    assert "person [v2]" in call(cache, "show", A)


def test_which_engine_is_meant_must_be_clear(cache: Cache) -> None:
    with pytest.raises(EngineMismatchError, match="no engine begins so"):
        call(cache, "show", "ffff")
    with pytest.raises(EngineMismatchError, match="2 engines begin so"):
        call(cache, "rm", "")


def test_rm(cache: Cache) -> None:
    told = json.loads(call(cache, "rm", A[:8], "--json"))
    assert told["removed"] == [A]
    assert told["freed"] > 4
    assert [row.fingerprint for row in cache.ls()] == [B]


def test_gc(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="needs a limit"):
        call(cache, "gc")
    assert json.loads(call(cache, "gc", "--max-age", "1d", "--json"))["removed"] == []
    assert "removed 2 engines" in call(cache, "gc", "--max-size", "0")
    assert cache.ls() == []


def test_verify(cache: Cache) -> None:
    assert "2 of 2 engines verified" in call(cache, "verify")
    (cache.root / B / "engine.plan").write_bytes(b"evil")
    assert "1 of 1 engines verified" in call(cache, "verify", A)
    report: dict[str, Any] = json.loads(
        call(cache, "verify", "--json", code=EngineMismatchError.exit_code)
    )
    assert report["verified"] == 1
    assert "does not verify" in report["problems"][B]
    assert [row.fingerprint for row in cache.ls()] == [A]


def test_show_of_a_damaged_one(cache: Cache) -> None:
    (cache.root / B / "manifest.seal").write_bytes(b"0")
    with pytest.raises(EngineMismatchError, match="does not verify"):
        call(cache, "show", B)
    assert "seal" in call(cache, "ls")
    call(cache, "rm", B)
    assert [row.fingerprint for row in cache.ls()] == [A]


@pytest.mark.parametrize(
    ("text", "value"),
    [("2G", 2e9), ("1.5 GiB", 1.5 * 2**30), ("500m", 5e8), ("7", 7), ("3kb", 3e3)],
)
def test_quantities(text: str, value: float) -> None:
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "gi": 2**30}
    assert quantity(text, units, "--max-size") == value
    with pytest.raises(ConfigError, match="--max-size 3 parsec: expected a number and one of k, m"):
        quantity("3 parsec", units, "--max-size")
