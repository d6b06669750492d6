from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgetrt.engine.build import BUILDER, Death, Limits, build, classify
from edgetrt.engine.events import Built, LogLine, Progress, from_line, to_line
from edgetrt.engine.memory import (
    MIB,
    MemoryGuard,
    available_bytes,
    floor_bytes,
    oom_kills,
    plan_pools,
    plan_workspace,
)
from edgetrt.engine.spec import BuildSpec, encode
from edgetrt.errors import BackendError, EngineBuildError, PlacementError
from tests.backends.tensorrt_networks import conv_net

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = BuildSpec(Path("m.onnx"))
GIB = 1 << 30
REPOSITORY = Path(__file__).parents[2]


def limits(**changes: object) -> Limits:
    fixed = {"available": lambda: 4 * GIB, "oom_kills": lambda: 0, "grace_s": 0.2}
    return Limits(**{**fixed, **changes})  # type: ignore[arg-type]


def script(body: str) -> tuple[str, ...]:
    """A build process that does something else; PLAN and FD are its arguments."""
    head = "import os, sys, time, signal\nplan, fd = sys.argv[1], int(sys.argv[2])\n"
    return (sys.executable, "-S", "-c", head + body)


TELL = """
os.write(fd, b'{"event": "progress", "phase": "timing kernels", "fraction": 0.5}\\n')
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose `tensorrt.py` the build process imports."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        (folder / f"{name}.py").write_text("raise ImportError('not in this test')")
    path = os.pathsep.join([str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    return folder / "tensorrt.py"


def test_a_build_in_another_process(tmp_path: Path, stand_in: Path) -> None:
    stand_in.write_text(
        "import sys; from tests.standins.tensorrt import make\n"
        "sys.modules[__name__] = make('10.3.0', dla_cores=2)\n"
    )
    model, plan = conv_net(tmp_path / "m.onnx"), tmp_path / "out" / "engine.plan"
    spec = BuildSpec(model, precision="fp16", dla=0)
    seen: list[Progress] = []
    result = build(spec, plan, seen.append, limits=limits())
    assert result.plan == plan
    assert plan.read_bytes()[:4] == b"ftrt"
    assert str(result.header) == "TensorRT 10.3.0.0"
    assert [layer.device for layer in result.built.layers] == ["DLA", "GPU"]
    assert any("[DlaLayer]" in line.text for line in result.log)
    assert seen[0].phase == "parsing"
    assert seen[-1] == Progress("Building Engine", 1.0)
    assert [path.name for path in plan.parent.iterdir()] == ["engine.plan"]


def test_errors_of_the_build_process_arrive_as_what_they_are(
    tmp_path: Path, stand_in: Path
) -> None:
    stand_in.write_text("raise ImportError('libnvdla_compiler.so: cannot open shared object file')")
    with pytest.raises(BackendError, match=r"libnvdla_compiler\.so") as caught:
        build(SPEC, tmp_path / "p.plan", limits=limits())
    assert "nvidia-l4t-dla-compiler" in caught.value.hint
    failing = script(
        """os.write(fd, b'{"event":"failed","kind":"PlacementError","message":"m"}\\n')"""
    )
    with pytest.raises(PlacementError, match="m"):
        build(SPEC, tmp_path / "p.plan", limits=limits(), command=failing)
    failing = script("""os.write(fd, b'{"event":"failed","kind":"os.system","message":"m"}\\n')""")
    with pytest.raises(EngineBuildError, match="m"):
        build(SPEC, tmp_path / "p.plan", limits=limits(), command=failing)


def test_the_build_process_steps_back(tmp_path: Path, stand_in: Path) -> None:
    stand_in.write_text(
        "import os\n"
        "raise ImportError(f'nice {os.nice(0)}, oom {open(\"/proc/self/oom_score_adj\").read()}')"
    )
    expected = f"nice {min(os.nice(0) + 10, 19)}, oom 1000"
    with pytest.raises(BackendError, match=expected):
        build(SPEC, tmp_path / "p.plan", limits=limits())


def test_the_build_process_ends_with_its_parent(tmp_path: Path, stand_in: Path) -> None:
    stand_in.write_text("import time, sys; print('on', flush=True); time.sleep(60)")
    with subprocess.Popen(
        [*BUILDER, str(tmp_path / "p"), "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(encode(SPEC) + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"on\n"
        process.stdin.close()
        assert process.wait(20) == 75


def test_a_full_disk_says_what_is_needed(tmp_path: Path, stand_in: Path) -> None:
    stand_in.write_text(
        "import sys; from tests.standins.tensorrt import make\n"
        "sys.modules[__name__] = make('10.3.0')\n"
    )
    blocked = tmp_path / "file" / "engine.plan"
    blocked.parent.write_bytes(b"")
    with pytest.raises(EngineBuildError, match=r"cannot be written .*34 bytes needed"):
        build(BuildSpec(conv_net(tmp_path / "m.onnx")), blocked, limits=limits())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), 9)", r"died while timing kernels: something killed it \(SIGKILL\)"),
        (
            "print('boom', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)",
            r"crashed while timing kernels \(SIGSEGV\): boom",
        ),
        (
            "print('NvMapMemAllocInternalTagged: 1075072515 error 12', flush=True); os.abort()",
            "ran out of memory while timing kernels: NvMap",
        ),
        ("os.kill(os.getpid(), 15)", "ended by signal 15"),
        ("sys.exit('no such thing')", "status 1 while timing kernels .* no plan: no such thing"),
    ],
)
def test_how_it_died_is_told(tmp_path: Path, body: str, message: str) -> None:
    plan = tmp_path / "p.plan"
    with pytest.raises(EngineBuildError, match=message):
        build(SPEC, plan, limits=limits(), command=script(TELL + body))
    assert not plan.exists()


def test_killed_by_the_kernel_for_memory(tmp_path: Path) -> None:
    counts = iter([4, 5])
    counted = limits(oom_kills=lambda: next(counts))
    with pytest.raises(EngineBuildError, match="the kernel killed it for memory") as caught:
        build(SPEC, tmp_path / "p", limits=counted, command=script("os.kill(os.getpid(), 9)"))
    assert "smaller workspace" in caught.value.hint


def test_guard_stops_it_before_the_kernel_does(tmp_path: Path) -> None:
    free = iter([4 * GIB, 3 * GIB])
    low = limits(available=lambda: next(free, 100 * MIB), floor_bytes=256 * MIB)
    with pytest.raises(EngineBuildError, match="only 100 MiB of memory were left") as caught:
        build(SPEC, tmp_path / "p", limits=low, command=script(TELL + "time.sleep(60)"))
    assert "smaller workspace" in caught.value.hint


@pytest.mark.parametrize("stubborn", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"])
def test_cancelled_even_when_it_does_not_listen(tmp_path: Path, stubborn: str) -> None:
    cancel = threading.Event()
    with pytest.raises(EngineBuildError, match="cancelled while timing kernels"):
        build(
            SPEC,
            tmp_path / "p",
            lambda _: cancel.set(),
            cancel,
            limits(),
            script(stubborn + TELL + "time.sleep(60)"),
        )


def test_too_long(tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match="took too long"):
        build(SPEC, tmp_path / "p", limits=limits(timeout_s=0.1), command=script("time.sleep(60)"))


def test_whoever_shows_the_progress_fails_and_no_build_is_left(tmp_path: Path) -> None:
    def show(event: Progress) -> None:
        raise KeyboardInterrupt

    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid()))\n" + TELL + "time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        build(SPEC, tmp_path / "p", show, limits=limits(), command=script(body))
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_noise_on_the_pipe_is_skipped(tmp_path: Path) -> None:
    seen: list[Progress] = []
    body = 'os.write(fd, b\'Warning: something\\n{"event": "new kind"}\\n\\xff\\n\')\n' + TELL
    with pytest.raises(EngineBuildError, match="status 0"):
        build(SPEC, tmp_path / "p", seen.append, limits=limits(), command=script(body))
    assert seen == [Progress("timing kernels", 0.5)]


def test_a_builder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match="cannot be started"):
        build(SPEC, tmp_path / "p", limits=limits(), command=("/none/python",))


def test_memory_limits_are_filled_from_what_is_free(tmp_path: Path) -> None:
    body = "sys.exit(os.read(0, 9999).decode())"
    spec = BuildSpec(Path("m.onnx"), dla=0, pools={"dla_global_dram": 4096})
    with pytest.raises(EngineBuildError) as caught:
        build(spec, tmp_path / "p", limits=limits(), command=script(body))
    assert f'"workspace_bytes":{2 * GIB}' in caught.value.message
    assert '"dla_global_dram":4096' in caught.value.message
    assert f'"dla_local_dram":{GIB}' in caught.value.message


def test_pools_are_powers_of_two_within_bounds() -> None:
    assert plan_workspace(None) is None
    assert plan_pools(None) == {}
    for free in (10 * MIB, 900 * MIB, 3 * GIB, 60 * GIB):
        pools = plan_pools(free)
        assert all(size & (size - 1) == 0 and size >= 4096 for size in pools.values())
        assert pools["dla_local_dram"] <= GIB
        assert pools["dla_global_dram"] <= GIB // 2
        assert (plan_workspace(free) or 0) <= max(free // 2, 64 * MIB)


def test_what_the_kernel_says_about_memory(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1024 kB\n")
    (tmp_path / "proc/vmstat").write_text("pgfault 1\noom_kill 7\n")
    assert available_bytes(tmp_path) == MIB
    assert oom_kills(tmp_path) == 7
    assert available_bytes(tmp_path / "none") is None
    assert floor_bytes(tmp_path) == floor_bytes(tmp_path / "none") == 192 * MIB
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\n")
    assert floor_bytes(tmp_path) == 512 * MIB
    (tmp_path / "proc/meminfo").write_text("MemTotal: 68388608 kB\n")
    assert floor_bytes(tmp_path) == GIB


def test_guard_calls_once_and_ends() -> None:
    low: list[int] = []
    called = threading.Event()

    def on_low(free: int) -> None:
        low.append(free)
        called.set()

    free = iter([None, 500, 90])
    with MemoryGuard(lambda: next(free, 5), 100, on_low, interval_s=0.001):
        assert called.wait(10)
    assert low == [90]


def test_events_survive_the_pipe() -> None:
    for event in (
        Progress("parsing"),
        LogLine("info", "a\nb ü"),
        Built("tensorrt 10.3.0", 5, 1.5, reasons={"a": "b"}),
    ):
        line = to_line(event)
        assert line.count(b"\n") == 1
        assert from_line(line) == event


def test_every_death_has_words() -> None:
    for status in (0, 1, 75, -9, -6, -11, -15, -31):
        assert classify(Death(status)).message.startswith("the build")
