from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgetrt import app
from edgetrt.app.serving import kept_engines
from edgetrt.deploy import release_build
from edgetrt.deploy.rehearsal import Rehearsed, Trial, compare, died, rehearse, try_out
from edgetrt.engine.cache import Cache, default_root
from edgetrt.errors import ConfigError, IncompatibleError, ModelError, UpdateError
from edgetrt.update import archive, built
from edgetrt.update.release import Golden
from tests import deploying, releases
from tests.cli.command import ROOT


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with deploying.machine(tmp_path):
        yield app.updates_dir()


def silent(step: str, what: str = "", fraction: float | None = None) -> None:
    """Nobody listens."""


def build(root: Path, digest: str) -> built.Built:
    """In this process, the trial as well: loading libraries anew takes a second."""
    return release_build.build(root, digest, silent, try_out)


def test_a_good_release_is_built_tried_and_kept(root: Path, tmp_path: Path) -> None:
    digest = releases.unpacked(releases.write(tmp_path / "r"), root)

    done = build(root, digest)

    assert built.require(root, digest) == done
    (part,) = done.pipelines
    assert [(check.name, check.ok) for check in done.checks] == [
        ("tiny: golden in.npz", True),
        ("tiny: accuracy", True),
    ]
    assert part.memory_mb is not None
    assert part.first_ms is not None
    assert Cache(default_root()).gc(max_bytes=0, keep=kept_engines()) == []
    assert Cache(default_root()).open(part.engine).manifest.fingerprint == part.engine


def test_what_was_tried_is_not_tried_again(root: Path, tmp_path: Path) -> None:
    first = releases.unpacked(releases.write(tmp_path / "r"), root)
    config = releases.write(tmp_path / "s")
    config.write_text(config.read_text().replace("version: '0'", "version: '1'"))
    second = releases.unpacked(config, root)
    tried: list[Trial] = []

    def counted(trial: Trial) -> Rehearsed:
        tried.append(trial)
        return try_out(trial)

    for digest in (first, second, first):
        release_build.build(root, digest, silent, counted)

    assert len(tried) == 1
    assert built.require(root, first).checks == built.require(root, second).checks


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"wrong": 5.0}, "golden", "off by"),
        ({"bands": "{memory_mb_max: 10}"}, "memory", "limit <= 10 MB"),
        ({"wrong": float("nan"), "bands": "{prove_s: 0}"}, "golden", "off by nan"),
    ],
)
def test_a_bad_release_is_refused_with_its_reason(
    root: Path, tmp_path: Path, options: dict[str, object], code: str, words: str
) -> None:
    digest = releases.unpacked(releases.write(tmp_path / "r", **options), root)  # type: ignore[arg-type]

    with pytest.raises(IncompatibleError, match=words):
        build(root, digest)

    with pytest.raises(IncompatibleError, match=words) as refused:
        built.require(root, digest)
    assert refused.value.code == code
    assert any(not check.ok for check in built.read(root, digest).checks)  # type: ignore[union-attr]


def test_an_accuracy_that_nothing_can_judge_is_refused(root: Path, tmp_path: Path) -> None:
    config = releases.write(tmp_path / "r")
    text = config.read_text().replace("golden: [{input: in.npz, expected: out.npz}]", "golden: []")
    config.write_text(text)

    with pytest.raises(IncompatibleError, match="no golden inputs"):
        build(root, releases.unpacked(config, root))


def test_a_network_that_is_none_is_refused(root: Path, tmp_path: Path) -> None:
    config = releases.write(tmp_path / "r")
    (tmp_path / "r/tiny.onnx").write_bytes(b"no network")
    digest = releases.unpacked(config, root)

    with pytest.raises(ModelError):
        build(root, digest)

    with pytest.raises(IncompatibleError) as refused:
        built.require(root, digest)
    assert refused.value.code == "model"


def test_golden_files_of_another_shape_are_refused(root: Path, tmp_path: Path) -> None:
    config = releases.write(tmp_path / "r")
    np.savez(tmp_path / "r/in.npz", images=np.zeros((1, 3, 8, 8), np.float32))

    with pytest.raises(ConfigError, match=r"\[1, 3, 64, 64\], it has \[1, 3, 8, 8\]"):
        build(root, releases.unpacked(config, root))


def test_golden_files_that_are_none_are_refused(root: Path, tmp_path: Path) -> None:
    config = releases.write(tmp_path / "r")
    (tmp_path / "r/out.npz").write_bytes(b"\x80\x04.")

    with pytest.raises(ConfigError, match="cannot be read as tensors"):
        build(root, releases.unpacked(config, root))


def test_a_source_that_cannot_be_is_found_before_the_switch(root: Path, tmp_path: Path) -> None:
    config = releases.write(tmp_path / "r", source="gopher:hole")
    digest = releases.unpacked(config, root)

    with pytest.raises(ConfigError, match="unknown scheme"):
        build(root, digest)

    assert built.read(root, digest).failure.code == "config"  # type: ignore[union-attr]


def test_what_is_not_here_cannot_be_built(root: Path) -> None:
    for digest in ("0" * 64, "../current"):
        with pytest.raises(UpdateError, match="no such release"):
            build(root, digest)


def test_while_a_release_is_built_again_what_serves_keeps_its_engines(
    root: Path, tmp_path: Path
) -> None:
    digest = releases.unpacked(releases.write(tmp_path / "r"), root)
    done = build(root, digest)

    built.forget(root, digest)
    built.forget(root, digest)

    with pytest.raises(IncompatibleError, match="without a word"):
        built.require(root, digest)
    assert built.serving(root, digest) == done
    assert kept_engines() == {done.pipelines[0].engine}
    assert build(root, digest).pipelines == done.pipelines
    assert [file.name for file in (root / "built").iterdir()] == [f"{digest}.json"]


def test_documents_of_releases_that_are_gone_are_removed(root: Path, tmp_path: Path) -> None:
    digest = releases.unpacked(releases.write(tmp_path / "r"), root)
    built.write(root, built.Built(digest="0" * 64, built_at=0.0))

    build(root, digest)

    assert built.read(root, "0" * 64) is None


def test_the_trial_has_a_process_of_its_own(root: Path, tmp_path: Path) -> None:
    digest = releases.unpacked(releases.write(tmp_path / "r"), root)
    done = build(root, digest)
    folder = root / "releases" / digest
    (one,) = app.parts(folder, archive.read(folder), done)
    assert one.engine is not None
    trial = Trial(name="tiny", engine=one.engine, folder=str(folder))

    found = rehearse(trial)
    late = rehearse(trial, within_s=0.01)

    assert found.failure is None
    assert found.first_ms is not None
    assert late.failure is not None
    assert late.failure.code == "hung"


CRASH = """
import ctypes, os, signal, sys
from pathlib import Path
from edgetrt.deploy import release_build
release_build.build_apart(Path(sys.argv[1]), sys.argv[2], lambda: os.kill(os.getpid(), int(sys.argv[3])))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGSEGV, "crashed"), (signal.SIGKILL, "memory")]
)
def test_native_code_that_dies_is_told_as_that(root: Path, number: int, code: str) -> None:
    digest = "0" * 64
    command = [sys.executable, "-c", CRASH, str(root), digest, str(int(number))]
    root.mkdir(parents=True)

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert "IncompatibleError" in done.stderr
    with pytest.raises(IncompatibleError) as refused:
        built.require(root, digest)
    assert refused.value.code == code


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.4, 0.9, 1.6, 2.4])
def test_a_build_that_is_killed_can_be_begun_again(
    root: Path, tmp_path: Path, after_s: float
) -> None:
    digest = releases.unpacked(releases.write(tmp_path / "r"), root)
    environment = {**os.environ, **deploying.places(tmp_path)}
    command = [sys.executable, "-m", "edgetrt", "update", "build", digest]

    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)

    (part,) = built.require(root, digest).pipelines
    assert Cache(default_root()).open(part.engine).manifest.fingerprint == part.engine
    assert [file.name for file in (root / "built").iterdir()] == [f"{digest}.json"]


def test_how_a_child_ended_is_named() -> None:
    assert "SIGSEGV" in died("its engine", -signal.SIGSEGV).message
    assert "exit status 3" in died("its engine", 3).message


def test_outputs_are_compared_by_the_largest_expected_value() -> None:
    golden = Golden(input="a", expected="b", tolerance=0.02)
    expected = {"y": np.array([0.0, 100.0]), "z": np.zeros(2)}

    def near(by: float) -> bool:
        return compare(golden, expected, {"y": np.array([by, 100.0]), "z": np.zeros(2)}).ok

    assert near(1.9)
    assert not near(2.1)
    assert not near(float("nan"))
    assert not compare(golden, expected, {"y": expected["y"]}).ok
    assert not compare(golden, expected, {**expected, "z": np.zeros(3)}).ok
