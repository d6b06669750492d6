from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetrt.engine.cache import Cache, default_root
from edgetrt.engine.fingerprint import Toolchain
from edgetrt.errors import ConfigError, EdgetrtError, EngineBuildError, EngineMismatchError
from edgetrt.types import DeviceIdentity

A, B, C = "a" * 64, "b" * 64, "c" * 64
PLAN = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "engines")


def put(cache: Cache, name: str = A, data: bytes = PLAN) -> None:
    files: dict[str, bytes | Path] = {"engine.plan": data, "placement.json": b"[]"}
    cache.put(name, files, "engine.plan", {"spec.precision": "int8"}, {"name": "person"})


def test_what_was_put_is_what_is_opened(cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "big.plan"
    source.write_bytes(PLAN * 500)
    manifest = cache.put(A, {"engine.plan": source}, "engine.plan", {"a": 1}, {"name": "person"})
    engine = cache.open(A)
    assert engine.data == source.read_bytes()
    assert engine.manifest == manifest == cache.get(A)
    assert manifest.size == len(engine.data)
    readable = json.loads((cache.root / A / "manifest.json").read_text())
    assert readable["info"] == {"name": "person"}
    assert readable["files"]["engine.plan"]["size"] == len(engine.data)


def test_networks_for_other_libraries_are_kept_the_same_way(cache: Cache) -> None:
    cache.put(A, {"model.onnx": b"onnx"}, "model.onnx")
    assert cache.open(A).path.name == "model.onnx"
    assert cache.open(A).data == b"onnx"


def test_an_entry_of_the_same_name_is_replaced(cache: Cache) -> None:
    put(cache, data=b"first")
    put(cache, data=b"second")
    assert cache.open(A).data == b"second"
    assert [row.fingerprint for row in cache.ls()] == [A]


def test_pinned_path_holds_the_verified_bytes_whatever_happens_to_the_file(cache: Cache) -> None:
    put(cache)
    with cache.open(A).pinned() as path:
        (cache.root / A / "engine.plan").write_bytes(b"exchanged")
        assert path.read_bytes() == PLAN
        with pytest.raises(PermissionError), path.open("r+b") as file:
            file.write(b"exchanged")
            file.flush()
    assert not path.exists()


def test_nobody_else_can_read_it(cache: Cache) -> None:
    put(cache)
    for path in [cache.root, *cache.root.rglob("*"), cache.root.with_name("engines.key")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_folder_or_key_open_to_others_is_refused(cache: Cache) -> None:
    cache.root.chmod(0o750)
    with pytest.raises(ConfigError, match="mode 0750, expected 0700") as caught:
        Cache(cache.root)
    assert "chmod 700" in caught.value.hint
    cache.root.chmod(0o700)
    key = cache.root.with_name("engines.key")
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="lets others read the key"):
        Cache(cache.root)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes, expected 32"):
        Cache(cache.root)


@pytest.mark.parametrize(
    "file", ["engine.plan", "placement.json", "manifest.json", "manifest.seal"]
)
def test_a_changed_file_is_never_loaded_and_moved_aside(cache: Cache, file: str) -> None:
    put(cache)
    path = cache.root / A / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineMismatchError, match="does not verify") as caught:
        cache.open(A)
    assert "deploy the model again" in caught.value.hint
    assert cache.get(A) is None
    assert cache.ls() == []
    (aside,) = (cache.root / ".aside").iterdir()
    assert (aside / file).read_bytes() == data
    put(cache)
    assert cache.open(A).data == PLAN


@pytest.mark.parametrize(
    "file", ["engine.plan", "placement.json", "manifest.json", "manifest.seal"]
)
def test_a_missing_file(cache: Cache, file: str) -> None:
    put(cache)
    (cache.root / A / file).unlink()
    with pytest.raises(EngineMismatchError, match=f"{file} is missing"):
        cache.open(A)


def test_a_good_entry_under_another_name_does_not_verify(cache: Cache) -> None:
    put(cache)
    (cache.root / A).rename(cache.root / B)
    with pytest.raises(EngineMismatchError, match="this device's seal"):
        cache.open(B)


def test_an_entry_of_another_device_does_not_verify(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "other" / "engines")
    put(other)
    (other.root / A).rename(cache.root / A)
    assert [row.problem for row in cache.ls()] == ["its manifest does not carry this device's seal"]
    with pytest.raises(EngineMismatchError, match="this device's seal"):
        cache.open(A)


def test_a_link_to_elsewhere_is_not_followed(cache: Cache, tmp_path: Path) -> None:
    put(cache)
    plan = cache.root / A / "engine.plan"
    plan.rename(tmp_path / "elsewhere")
    plan.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineMismatchError, match="does not verify"):
        cache.open(A)


def test_absent_and_misnamed(cache: Cache) -> None:
    with pytest.raises(EngineMismatchError, match="no engine aaaa"):
        cache.open(A)
    with pytest.raises(EngineMismatchError, match="no engine aaaa"):
        cache.rm(A)
    for name in ("../../etc", "A" * 64, ""):
        with pytest.raises(EngineMismatchError, match="is no fingerprint"):
            cache.open(name)
    with pytest.raises(EngineBuildError, match="cannot be stored"):
        cache.put(A, {"../x": b""}, "../x")
    with pytest.raises(EngineBuildError, match="cannot be stored"):
        cache.put(A, {"manifest.json": b""}, "manifest.json")


def test_no_space_leaves_the_cache_as_it_was(cache: Cache) -> None:
    put(cache, data=b"kept")
    full = Cache(cache.root, free_bytes=lambda _: 5_000_000)
    with pytest.raises(EngineBuildError, match="14194304 bytes needed, 5000000 free") as caught:
        put(full, data=bytes(10_000_000 - 2))
    assert "engines gc" in caught.value.hint
    assert cache.open(A).data == b"kept"


def test_a_disk_that_fills_up_while_writing(cache: Cache) -> None:
    put(cache, data=b"kept")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(EngineBuildError, match="no space for an engine"):
            put(cache, data=bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cache.open(A).data == b"kept"
    assert not list(cache.root.glob(".tmp-*"))


KILLER = r"""
import json, os, random, signal, sys, time
from pathlib import Path
from edgetrt.engine.cache import Cache
root, payload, name = Path(sys.argv[1]), bytes(range(256)) * 4000, "a" * 64
cache, bad, killed = Cache(root), [], 0

def child(at):
    count = 0
    def hook(event, args):
        nonlocal count
        if event.startswith(("open", "os.", "fcntl.", "shutil.")):
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
    if at:
        sys.addaudithook(hook)
    cache.put(name, {"engine.plan": payload, "report.json": b"{}"}, "engine.plan")
    os._exit(0)

def check(label):
    rows = cache.ls()
    if any(row.problem for row in rows) or len(rows) > 1:
        bad.append([label, [row.problem for row in rows]])
    elif rows and cache.open(name).data != payload:
        bad.append([label, "content"])

for fresh in (True, False):
    for at in range(1, 400):
        if fresh and cache.get(name):
            cache.rm(name)
        pid = os.fork()
        if not pid:
            child(at)
        status = os.waitpid(pid, 0)[1]
        check([fresh, at])
        if status == 0:
            break
        killed += 1
rng = random.Random(1)
for turn in range(10):
    pid = os.fork()
    if not pid:
        child(0)
    time.sleep(rng.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    check([turn])
cache.put(name, {"engine.plan": b"x"}, "engine.plan")
left = [path.name for path in root.glob(".tmp-*")]
print(json.dumps({"bad": bad, "killed": killed, "left": left}))
"""


def test_killed_at_any_point_there_is_a_whole_entry_or_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "engines")],
        capture_output=True,
        check=True,
        timeout=60,
    )
    report = json.loads(done.stdout)
    assert report["bad"] == []
    assert report["killed"] > 30
    assert report["left"] == []


def test_one_builds_and_the_other_waits(cache: Cache) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        def told(message: str) -> None:
            order.append(message)
            waiting.set()

        with cache.lock(A, told):
            order.append("second")

    thread = threading.Thread(target=second)
    with cache.lock(A):
        thread.start()
        assert waiting.wait(10)
        with cache.lock(B):
            order.append("first")
    thread.join()
    assert order == [
        f"process {os.getpid()} is at work on the same engine; waiting for it",
        "first",
        "second",
    ]


def test_waiting_ends(cache: Cache) -> None:
    with (
        cache.lock(A),
        pytest.raises(EngineBuildError, match="has held"),
        cache.lock(A, timeout_s=0.05),
    ):
        raise AssertionError("two hold it")


def test_gc_by_age_and_by_size_takes_the_longest_unused(cache: Cache) -> None:
    for age, name in enumerate((A, B, C)):
        put(cache, name)
        os.utime(cache.root / name, (1000 - age * 100,) * 2)
    size = cache.ls()[0].size
    assert [row.fingerprint for row in cache.ls()] == [A, B, C]
    removed = cache.gc(max_bytes=2 * size, now_s=1000)
    assert [row.fingerprint for row in removed] == [C]
    removed = cache.gc(max_age_s=50, keep={B}, now_s=1000)
    assert removed == []
    removed = cache.gc(max_age_s=50, now_s=1000)
    assert [row.fingerprint for row in removed] == [B]
    assert cache.open(A).data == PLAN


def test_opening_counts_as_use(cache: Cache) -> None:
    for name in (A, B):
        put(cache, name)
        os.utime(cache.root / name, (0, 0))
    cache.open(B)
    assert [row.fingerprint for row in cache.ls()] == [B, A]


def test_gc_takes_what_was_moved_aside(cache: Cache) -> None:
    put(cache)
    (cache.root / A / "engine.plan").write_bytes(b"x")
    with pytest.raises(EngineMismatchError):
        cache.open(A)
    cache.gc(max_age_s=1e6)
    assert len(list((cache.root / ".aside").iterdir())) == 1
    cache.gc(max_age_s=10, now_s=4e9)
    assert list((cache.root / ".aside").iterdir()) == []


def test_timing_cache_is_per_toolchain_and_device(cache: Cache) -> None:
    orin = DeviceIdentity("Orin", "p3767-0003", "tegra234", "8.7")
    old, new = Toolchain("tensorrt", "10.3.0", "12.6"), Toolchain("tensorrt", "10.7.0", "12.6")
    path = cache.timing_cache(old, orin)
    assert path.name == "tensorrt-10.3.0-12.6-p3767-0003-8.7"
    assert path.parent == cache.root / ".timing"
    assert cache.timing_cache(new, orin) != path


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"EDGETRT_CACHE": "/x/y"}, Path("/x/y")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/edgetrt/engines")),
        ({}, Path.home() / ".cache/edgetrt/engines"),
    ],
)
def test_where_it_is(environ: dict[str, str], expected: Path) -> None:
    assert default_root(environ) in {expected, Path("/var/lib/edgetrt/engines")}


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be used"):
        Cache(tmp_path / "file" / "engines")


@settings(max_examples=60, deadline=None)
@given(
    file=st.sampled_from(["engine.plan", "placement.json", "manifest.json", "manifest.seal"]),
    at=st.integers(0, 10**6),
    flip=st.integers(1, 255),
)
def test_no_changed_byte_is_overlooked(
    tmp_path_factory: pytest.TempPathFactory, file: str, at: int, flip: int
) -> None:
    cache = Cache(tmp_path_factory.mktemp("c") / "engines")
    put(cache, data=b"plan" * 20)
    path = cache.root / A / file
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= flip
    path.write_bytes(data)
    with pytest.raises(EdgetrtError):
        cache.open(A)
