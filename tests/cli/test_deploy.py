"""`edgetrt deploy` and what goes with it, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import ROOT, Done
from tests.deploying import detector, pictures, places

QUICK = ("--backend", "onnxruntime", "--bench-s", "0.05")


class Machine:
    """A machine with its own cache, state and sockets, a tiny network and frames for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = detector(folder / "tiny.onnx")
        self.frames = pictures(folder / "frames")
        self.environment = {
            **os.environ,
            **places(folder),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "TERM": "dumb",
        }

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "edgetrt", *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, timeout_s: float = 60.0) -> Done:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout_s)
        return Done(process.returncode, out, err)

    def deploy(self, *more: object, precision: str = "fp16") -> Any:
        done = self.run(
            "deploy",
            self.model,
            "--precision",
            precision,
            "--calib",
            self.frames,
            *QUICK,
            *more,
            "--json",
        )
        assert done.code == 0, done.err
        return done.json()

    @property
    def cache(self) -> Path:
        return self.folder / "engines"

    def entries(self) -> list[Path]:
        return [path for path in self.cache.iterdir() if len(path.name) == 64]


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("m"))


def test_int8_is_made_judged_measured_and_installed_and_then_found(here: Machine) -> None:
    told = here.deploy(precision="int8")
    report = told["report"]
    assert (told["cache"], told["state"]) == ("miss", "installed")
    assert (report["backend"], report["precision"]) == ("onnxruntime", "int8")
    assert report["accuracy"]["measure"] == "ap"
    assert report["accuracy"]["passed"]
    assert report["accuracy"]["value"] >= 0.99
    assert report["latency_ms"]["median"] > 0
    (tried,) = report["tried"]
    assert tried["layers"] > 0
    assert 0 <= tried["everything"] <= 1
    again = here.deploy(precision="int8")
    assert (again["cache"], again["report"]["cache"]) == ("hit", "hit")
    assert again["report"]["engine"] == report["engine"]
    assert len(here.entries()) == 1
    engines = here.run("engines", "ls", "--json").json()["engines"]
    told = [(row["name"], row["precision"], row["problem"]) for row in engines]
    assert told == [("tiny", "int8", None)]
    assert here.run("engines", "gc", "--max-size", "0", "--json").json()["removed"] == []


def test_a_hit_needs_neither_numpy_nor_the_network_s_reader(here: Machine) -> None:
    here.deploy()
    code = (
        "import sys; from edgetrt.cli import main; main();"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules],"
        "file=sys.stderr)"
    )
    words = ("deploy", here.model, "--precision", "fp16", "--calib", here.frames, *QUICK, "--json")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["cache"] == "hit"
    assert done.stderr.splitlines()[-1] == "[]"


def test_other_frames_precision_or_network_are_another_engine(here: Machine) -> None:
    first = here.deploy()["report"]["engine"]
    assert here.deploy(precision="fp32")["cache"] == "miss"
    (here.frames / "00.png").unlink()
    assert here.deploy()["cache"] == "miss"
    detector(here.model, seed=1)
    told = here.deploy()
    assert told["cache"] == "miss"
    assert told["report"]["engine"] != first


def test_a_copy_of_the_network_elsewhere_is_the_same_engine(here: Machine) -> None:
    here.deploy()
    copy = here.folder / "copy.onnx"
    copy.write_bytes(here.model.read_bytes())
    here.model = copy
    told = here.deploy()
    assert told["cache"] == "hit"
    assert told["report"]["model"] == str(copy)
    assert told["report"]["name"] == "copy"


def test_two_at_once_make_one_engine(here: Machine) -> None:
    words = ("deploy", here.model, "--precision", "int8", "--calib", here.frames, *QUICK, "--json")
    both = [here.start(*words) for _ in range(2)]
    outs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    told = [json.loads(out) for out, _ in outs]
    assert sorted(t["cache"] for t in told) == ["hit", "miss"]
    assert len({t["report"]["engine"] for t in told}) == 1


def test_killed_on_the_way_leaves_the_cache_whole(here: Machine) -> None:
    here.deploy(precision="fp32")
    before = here.entries()
    process = here.start(
        "deploy", here.model, "--calib", here.frames, "--backend", "onnxruntime", "--bench-s", "60"
    )
    for _ in range(300):
        if list(here.cache.glob(".tmp-*/frames/*.npz")):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the deployment did not begin")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert list(here.cache.glob(".tmp-*"))
    assert here.entries() == before
    assert here.run("engines", "verify", "--json").json() == {"verified": 1, "problems": {}}
    assert here.deploy()["cache"] == "miss"
    assert list(here.cache.glob(".tmp-*")) == []


def test_a_tampered_engine_is_refused_and_made_again(here: Machine) -> None:
    engine = here.deploy()["report"]["engine"]
    with (here.cache / engine / "model.onnx").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    told = here.deploy()
    assert told["cache"] == "miss"
    assert any("does not verify" in warning for warning in told["report"]["warnings"])
    assert here.deploy()["cache"] == "hit"


def test_a_full_disk_is_told_with_what_is_needed(here: Machine) -> None:
    here.deploy(precision="fp32")
    limit = "import resource as r, sys; r.setrlimit(r.RLIMIT_FSIZE, (20000, 20000));"
    code = limit + "from edgetrt.cli import main; sys.exit(main())"
    words = ("deploy", here.model, "--precision", "int8", "--calib", here.frames, *QUICK)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 70
    assert re.search(r"about [1-9][0-9]* [KM]iB needed", done.stderr)
    assert "The cache is unchanged" in done.stderr
    assert len(here.entries()) == 1


def refused(here: Machine, code: int, words: str, *arguments: object) -> str:
    done = here.run("deploy", *arguments, *QUICK)
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    return done.err


def test_what_cannot_be_deployed_says_why(here: Machine, tmp_path: Path) -> None:
    said = refused(here, 65, "INT8 needs frames", here.model, "--precision", "int8")
    assert "--calib" in said
    refused(here, 66, "missing.avi", here.model, "--calib", tmp_path / "missing.avi")
    (tmp_path / "empty").mkdir()
    refused(here, 66, "empty", here.model, "--calib", tmp_path / "empty")
    refused(here, 65, "nothing.onnx", tmp_path / "nothing.onnx")
    refused(here, 78, "--precision", here.model, "--precision", "int3")
    said = refused(here, 78, "not a name", here.model, "--name", "../../etc/evil")
    assert "lower-case" in said
    refused(here, 78, "cannot be written", here.model, "--html", tmp_path / "no" / "page.html")


def test_the_dla_of_this_machine_and_of_another(here: Machine) -> None:
    said = refused(here, 65, "has no DLA", here.model, "--dla")
    assert "--target orin-nx-16gb" in said
    said = refused(here, 78, "unknown target", here.model, "--dla", "--target", "orin-nx-61gb")
    assert "orin-nx-16gb" in said
    refused(here, 78, "Add --dla", here.model, "--target", "orin-nx-16gb")
    said = refused(here, 65, "no DLA", here.model, "--dla", "--target", "orin-nano-8gb")
    assert "boards with a DLA" in said
    told = here.deploy("--dla", "--target", "orin-nx-16gb")
    placement = told["report"]["placement"]
    assert placement["target"] == "orin-nx-16gb"
    assert placement["flops_share"] > 0.5
    assert not placement["here"]
    assert placement["compared"] is None
    (said,) = (w for w in told["report"]["warnings"] if "orin-nx-16gb" in w)
    assert "the engine made here is for this machine" in said


def test_the_page_and_the_table(here: Machine) -> None:
    page = here.folder / "page.html"
    done = here.run(
        "deploy", here.model, "--precision", "int8", "--calib", here.frames, *QUICK, "--html", page
    )
    assert done.code == 0, done.err
    assert "accuracy passed: ap" in done.out
    assert "engine alone" in done.out
    assert "<svg" in page.read_text()
    assert "verify:" in done.err


def test_build_verify_bench_by_themselves(here: Machine) -> None:
    out = here.folder / "out"
    done = here.run(
        "build",
        here.model,
        "--precision",
        "fp16",
        "--calib",
        here.frames,
        "--backend",
        "onnxruntime",
        "-o",
        out,
        "--json",
    )
    assert done.json()["state"] == "dry-run"
    assert {path.name for path in out.iterdir()} == {"model.onnx", "manifest.json"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["fingerprint"] == done.json()["report"]["engine"]
    assert here.run("verify", "tiny").code == 78
    told = here.deploy()
    assert told["report"]["engine"] == manifest["fingerprint"]
    verdict = here.run("verify", "tiny", "--calib", here.frames, "--json").json()
    assert verdict["passed"]
    assert verdict["measure"] == "ap"
    assert here.run("verify", "tiny").code == 78  # it has no source to take frames from
    source = f"synthetic:{64}x{64}?frames=50"
    figures = here.run("bench", "tiny", "--seconds", "0.2", "--source", source, "--json").json()
    assert figures["engine"]["throughput_qps"] > 0
    assert set(figures["engine"]["latency_ms"]) >= {"min", "mean", "median", "p90", "p95", "p99"}
    assert set(figures["stages_ms"]) == {"read", "preprocess", "infer", "postprocess", "publish"}


def test_the_runtime_takes_what_is_installed_at_its_start(here: Machine) -> None:
    engine = here.deploy("--source", "synthetic:64x64?frames=5")["report"]["engine"]
    lines = serve(here, "runtime", "--config", config(here), "--run-dir", run_dir(here))
    assert lines == []
    assert here.run("rollback", "tiny").code == 78
    record = json.loads((here.folder / "state" / "active" / "tiny.json").read_text())
    assert record["current"]["fingerprint"] == engine


def run_dir(here: Machine) -> str:
    return here.environment["RUNTIME_DIRECTORY"]


def config(here: Machine) -> Path:
    """A device whose one pipeline writes its results as lines."""
    (here.folder / "pipelines.d").mkdir(exist_ok=True)
    (here.folder / "agent.yaml").write_text("device: test\n")
    return here.folder / "agent.yaml"


def serve(here: Machine, *arguments: object) -> list[str]:
    done = here.run(*arguments)
    assert done.code == 0, done.err
    return done.err.splitlines()


@pytest.fixture
def serving(here: Machine) -> Iterator[tuple[Machine, Path]]:
    """A running runtime whose pipeline `tiny` was deployed in FP32 and writes its results to a file."""
    results = here.folder / "results.jsonl"
    here.deploy("--name", "tiny", precision="fp32")
    path = config(here)
    (here.folder / "pipelines.d" / "tiny.yaml").write_text(
        f"name: tiny\nmodel: {here.model}\nsource: synthetic:64x64\nrate_hz: 200\n"
        f"sinks: ['jsonl:{results}']\n"
    )
    process = here.start("runtime", "--config", path, "--run-dir", run_dir(here))
    try:
        wait_for(results, 20, process)
        yield here, results
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def wait_for(results: Path, lines: int, process: subprocess.Popen[str] | None = None) -> None:
    """Until a file has so many lines."""
    for _ in range(600):
        if results.exists() and results.read_bytes().count(b"\n") >= lines:
            return
        if process is not None and process.poll() is not None:
            pytest.fail(f"the runtime ended: {process.communicate()[1]}")
        time.sleep(0.05)
    pytest.fail("no results")


def read(results: Path) -> list[Any]:
    return [json.loads(line) for line in results.read_bytes().splitlines()[:-1]]


def test_a_running_pipeline_swaps_and_rolls_back_without_losing_a_frame(
    serving: tuple[Machine, Path],
) -> None:
    here, results = serving
    first = here.deploy("--name", "tiny", precision="fp32")
    assert first["state"] == "swapped"
    second = here.deploy("--name", "tiny", "--source", "synthetic:64x64", precision="int8")
    assert second["state"] == "swapped"
    assert second["previous"] == first["report"]["engine"]
    wait_for(results, len(read(results)) + 30)
    back = here.run("rollback", "tiny", "--json").json()
    assert back["state"] == "swapped"
    assert back["record"]["current"]["fingerprint"] == first["report"]["engine"]
    wait_for(results, len(read(results)) + 30)
    told = read(results)
    assert [r["frame"] for r in told] == list(range(len(told)))
    assert {r["dropped"] for r in told} == {0}
    engines = [engine for engine, _ in groupby(result["engine"] for result in told)]
    names = [run["report"]["engine"][:16] for run in (first, second, first)]
    assert engines == names


def test_an_engine_that_is_gone_is_told_and_the_old_one_goes_on(
    serving: tuple[Machine, Path],
) -> None:
    here, results = serving
    told = here.deploy("--name", "tiny", precision="fp16")
    assert told["state"] == "swapped"
    for entry in here.entries():
        if entry.name != told["report"]["engine"]:
            here.run("engines", "rm", entry.name)
    back = here.run("rollback", "tiny", "--json").json()
    assert back["state"] == "installed"
    assert "no engine" in back["detail"]
    wait_for(results, len(read(results)) + 10)
    assert read(results)[-1]["engine"] == told["report"]["engine"][:16]
