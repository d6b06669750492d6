"""A disk that is full at the n-th change, for every n: the old or the new release, whole, and it goes on."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt.errors import EdgetrtError
from edgetrt.update.states import Code
from tests.update.device import Device, offer
from tests.update.test_plug import ROOT, Prepared, assert_whole

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

FOR_EVER = 1 << 30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "full_disk.so"
    source = Path(__file__).with_name("full_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source, "-ldl"], check=True)
    return path


class Runs:
    """Updates in forks of one process that stands on the library."""

    def __init__(self, prepared: Prepared, library: Path, folder: Path) -> None:
        (folder / "root.json").write_bytes(prepared.root)
        (folder / "envelope").write_bytes(prepared.envelope)
        made = (folder / "root.json", folder / "envelope", prepared.bundle)
        self._folder, self._prepared = folder, prepared
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.update.test_full_disk", *map(str, made), str(library)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(self, at: int, many: int, what: int) -> tuple[Path, dict[str, Any]]:
        """One update on a disk that fails from the n-th change on; 0 = never."""
        folder = self._prepared.copy(self._folder / f"at-{at}")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        wish = json.dumps([str(folder), at, many, what])
        self._process.stdin.write(wish.encode() + b"\n")
        self._process.stdin.flush()
        return folder, json.loads(self._process.stdout.readline())


def check(prepared: Prepared, folder: Path) -> Code:
    """There is room again: whole before, whole after, and it ends by itself."""
    assert_whole(Device(folder, prepared.root), prepared)
    device = Device(folder, prepared.root)
    device.machine.offer(offer(prepared.envelope, prepared.bundle))
    record = device.settle()
    serves = assert_whole(device, prepared)
    assert record.code is not None
    assert serves == (prepared.new if record.code is Code.SUCCEEDED else prepared.old)
    assert record.code in (Code.SUCCEEDED, Code.FAILED, Code.ROLLED_BACK)
    if record.code is not Code.SUCCEEDED:
        assert record.reason in ("space", "disk"), record
    return record.code


def everywhere(
    prepared: Prepared, library: Path, folder: Path, step: int, many: int, what: int
) -> None:
    with Runs(prepared, library, folder) as runs:
        _, whole = runs.run(0, 0, 0)
        assert whole["code"] == "SUCCEEDED"
        assert whole["changes"] > 50
        ends = set[Code]()
        for at in range(1, whole["changes"] + 1, step):
            device, told = runs.run(at, many, what)
            assert told["foreign"] == "", told
            ends.add(check(prepared, device))
            shutil.rmtree(device)
    print(f"{whole['changes']} changes, failed from every {step}th on: {sorted(map(str, ends))}")
    # Where it stays full not even the failure can be stored: the update goes on when there is room.
    assert ends == {Code.SUCCEEDED} if many == FOR_EVER else {Code.SUCCEEDED, Code.FAILED} <= ends


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("many", "what"),
    [(FOR_EVER, errno.ENOSPC), (1, errno.ENOSPC), (FOR_EVER, errno.EROFS), (1, errno.EIO)],
    ids=["full from there on", "full once", "read-only from there on", "a fault once"],
)
def test_a_disk_that_fails_now_and_then(
    prepared: Prepared, library: Path, tmp_path: Path, many: int, what: int
) -> None:
    everywhere(prepared, library, tmp_path, 13, many, what)


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("many", [FOR_EVER, 1], ids=["from there on", "once"])
def test_a_disk_that_is_full_at_every_change(
    prepared: Prepared, library: Path, tmp_path: Path, many: int
) -> None:
    everywhere(prepared, library, tmp_path, 1, many, errno.ENOSPC)


def serve(root: Path, envelope: Path, bundle: Path, library: ctypes.CDLL) -> None:
    """Take wishes from stdin; each is done in a fork, as in a process that has just started."""
    import threading

    assert threading.active_count() == 1
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            told = one(json.loads(line), root, envelope, bundle, library)
            os.write(writing, json.dumps(told).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        print(answer.decode(), flush=True)


def one(
    wish: list[Any], root: Path, envelope: Path, bundle: Path, library: ctypes.CDLL
) -> dict[str, Any]:
    folder, at, many, what = wish
    code, error, foreign = "", "", ""
    library.arm(os.path.realpath(folder).encode(), at, ctypes.c_long(many), what)
    try:
        device = Device(Path(os.path.realpath(folder)), root.read_bytes())
        device.machine.offer(offer(envelope.read_bytes(), bundle))
        record = device.settle()
        code = record.code.value if record.code else ""
    except EdgetrtError as failure:
        error = str(failure)
    except OSError as failure:  # where the device is made or read, before the machine begins
        error = str(failure)
        if failure.errno != what:
            foreign = repr(failure)
    except Exception as failure:  # noqa: BLE001 - told to the test, which fails on it
        foreign = repr(failure)
    library.counted.restype = ctypes.c_long
    changes = library.counted()
    library.arm(b"", 0, ctypes.c_long(0), 0)
    return {"code": code, "error": error, "foreign": foreign, "changes": changes}


if __name__ == "__main__":
    files = [Path(argument) for argument in sys.argv[1:4]]
    serve(files[0], files[1], files[2], ctypes.CDLL(sys.argv[4]))
