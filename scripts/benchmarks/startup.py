"""How soon edgetrt is there, and how much memory its control process holds."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.benchmarks.figures import Figure, report
from scripts.benchmarks.footage import cache

ROOT = Path(__file__).parents[2]
EDGETRT = [sys.executable, "-m", "edgetrt"]
MODEL = ROOT / "engines" / "person" / "person.onnx"
AGENT_SETTLES_S = 4.0


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    parser = argparse.ArgumentParser(prog="scripts/bench startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--source", help="default: the demo's video when cached, else synthetic")
    parser.add_argument("--json", action="store_true")
    wishes = parser.parse_args()
    video = cache() / "vtest.avi"
    source = wishes.source or (str(video) if video.exists() else "synthetic:768x576")
    figures = [
        _timed("import_ms", import_ms, wishes.runs, 100, "ms", "import edgetrt, in a new process"),
        _timed("help_ms", help_ms, wishes.runs, 400, "ms", "edgetrt --help, start to end"),
        *first_results(source, wishes.runs),
        agent_memory(),
    ]
    return report("startup", figures, {"source": source, "runs": wishes.runs}, as_json=wishes.json)


def _timed(
    name: str, measure: Callable[[], float], runs: int, goal: float, unit: str, note: str
) -> Figure:
    """Median over new processes, after one that warms the file cache."""
    measure()
    return Figure(name, statistics.median(measure() for _ in range(runs)), unit, goal, note=note)


def import_ms() -> float:
    """Time of the import statement alone."""
    code = (
        "import time; begin = time.perf_counter_ns(); import edgetrt; "
        "print((time.perf_counter_ns() - begin) / 1e6)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, stdout=-1).stdout)


def help_ms() -> float:
    """The whole process, interpreter included."""
    begin = time.perf_counter()
    subprocess.run([*EDGETRT, "--help"], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3


def first_results(source: str, runs: int) -> Iterator[Figure]:
    """Start of `edgetrt run` to its first line of results."""
    yield _timed(
        "first_result_s",
        lambda: first_result_s(source, "onnxruntime", cache()),
        runs,
        2,
        "s",
        "start to first result, ONNX Runtime",
    )
    if importlib.util.find_spec("openvino") is None:
        yield Figure("first_result_trial_s", None, "s", 2, note="only one backend: no trial")
        return

    def trial() -> float:
        with tempfile.TemporaryDirectory() as empty:
            return first_result_s(source, "auto", Path(empty))

    yield _timed("first_result_trial_s", trial, runs, 2, "s", "backend auto, measured anew")


def first_result_s(source: str, backend: str, memory: Path) -> float:
    """One run; `memory` is where the choice between backends is remembered."""
    command = [*EDGETRT, "run", str(MODEL), "--source", source, "--backend", backend]
    begin = time.perf_counter()
    with subprocess.Popen(
        [*command, "--frames", "1", "--sink", "jsonl:-", "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "CACHE_DIRECTORY": str(memory)},
    ) as process:
        assert process.stdout is not None  # noqa: S101
        line = process.stdout.readline()
        elapsed_s = time.perf_counter() - begin
        process.stdout.read()
    if process.returncode != 0 or not isinstance(json.loads(line), dict):
        raise RuntimeError(f"`{' '.join(command)}` ended with code {process.returncode}")
    return elapsed_s


def agent_memory() -> Figure:
    """Resident memory of a connected agent."""
    note = "resident, connected to a broker"
    broker = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if broker is None:
        return Figure("agent_rss_mb", None, "MB", 60, note="mosquitto is not installed")
    with tempfile.TemporaryDirectory() as folder:
        value = _agent_rss_mb(broker, Path(folder))
    return Figure("agent_rss_mb", value, "MB", 60, note=note)


def _agent_rss_mb(broker: str, folder: Path) -> float:
    port = _free_port()
    log = folder / "mosquitto.log"
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest file {log}\nuser root\n"
    )
    (folder / "pipelines.d").mkdir()
    (folder / "agent.yaml").write_text(
        f"device: bench\nbroker: {{host: 127.0.0.1, port: {port}}}\n"
    )
    agent = [*EDGETRT, "agent", "--config", str(folder / "agent.yaml"), "--run-dir", str(folder)]
    with subprocess.Popen([broker, "-c", str(folder / "mosquitto.conf")]) as mosquitto:
        try:
            with subprocess.Popen(agent) as process:
                try:
                    time.sleep(AGENT_SETTLES_S)
                    if process.poll() is not None:
                        raise RuntimeError(f"the agent ended with code {process.returncode}")
                    if "New client connected" not in log.read_text(encoding="utf-8"):
                        raise RuntimeError("the agent did not connect to the broker")
                    return resident_mb(process.pid)
                finally:
                    process.terminate()
        finally:
            mosquitto.terminate()


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM now, in 10^6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
