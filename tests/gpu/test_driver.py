"""The calls of every frame, against a stand-in for the driver's library that notes what it was told."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt.errors import CudaError
from edgetrt.gpu import graphs
from edgetrt.gpu.driver import Driver, DriverEvent, own
from tests.fakes import FakeDevice
from tests.gpu.host_compiler import available

CODE = r"""
#include <stdio.h>
#include <string.h>
static char text[4096]; static int status; static long made = 100;
#define NOTE(...) { char line[80]; snprintf(line, 80, __VA_ARGS__); strcat(text, line); strcat(text, " "); }
extern "C" {
const char *told() { static char out[4096]; strcpy(out, text); text[0] = 0; return out; }
void fail(int with) { status = with; }
int cuCtxSetCurrent(void *c) { NOTE("current:%ld", (long)c) return 0; }
int cuEventCreate(void **e, unsigned f) { *e = (void *)++made; NOTE("create:%u", f) return status; }
int cuEventRecord(void *e, void *s) { NOTE("record:%ld,%ld", (long)e, (long)s) return status; }
int cuEventQuery(void *e) { NOTE("query") return status; }
int cuEventSynchronize(void *e) { NOTE("sync") return status; }
int cuEventElapsedTime(float *t, void *a, void *b) { *t = (long)b - (long)a; return status; }
int cuEventDestroy_v2(void *e) { NOTE("destroy") return status; }
int cuStreamWaitEvent(void *s, void *e, unsigned f) { NOTE("hold:%ld,%ld", (long)s, (long)e) return status; }
int cuStreamBeginCapture_v2(void *s, int mode) { NOTE("begin:%d", mode) return status; }
int cuStreamEndCapture(void *s, void **g) { *g = (void *)7; NOTE("end") return status; }
int cuGraphInstantiateWithFlags(void **x, void *g, unsigned long long f) {
  *x = (void *)8; NOTE("make:%ld", (long)g) return status; }
int cuGraphLaunch(void *x, void *s) { NOTE("launch:%ld,%ld", (long)x, (long)s) return status; }
int cuGraphExecDestroy(void *x) { NOTE("drop:%ld", (long)x) return 0; }
int cuGraphDestroy(void *g) { NOTE("free:%ld", (long)g) return 0; }
int cuGetErrorName(int s, const char **out) {
  *out = s == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : s == 900 ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : 0;
  return *out ? 0 : 1; }
}
"""


class Library:
    """The stand-in as the tests look into it."""

    def __init__(self, path: Path) -> None:
        self.driver = Driver(str(path))
        self._raw = ctypes.CDLL(str(path))
        self._raw.told.restype = ctypes.c_char_p
        self.fail(0)
        self.told()

    def told(self) -> str:
        """Calls since the last look."""
        return str(self._raw.told().decode()).strip()

    def fail(self, status: int) -> None:
        """Answer calls with this from now on."""
        self._raw.fail(status)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not available():
        pytest.skip("no host compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.cpp").write_text(CODE)
    command = [
        "g++",
        "-shared",
        "-fPIC",
        "-o",
        str(folder / "libcuda.so"),
        str(folder / "cuda.cpp"),
    ]
    subprocess.run(command, check=True, timeout=60)
    return folder / "libcuda.so"


@pytest.fixture
def library(path: Path) -> Iterator[Library]:
    library = Library(path)
    yield library
    library.fail(0)


class Stream:
    handle = 5


def test_a_thread_takes_the_context_once(library: Library) -> None:
    event = DriverEvent(library.driver, 42, timing=False, spin=False)
    library.told()
    for _ in range(3):
        event.record(5)
        event.wait()
    assert library.told() == "current:42" + f" record:{event.handle},5 sync" * 3
    answers: list[str] = []

    def work() -> None:
        event.done()
        event.done()
        answers.append(library.told())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert answers == ["current:42 query query"]
    event.close()
    event.close()
    assert library.told() == "destroy"


@pytest.mark.parametrize(
    ("timing", "spin", "flags"),
    [(False, False, 3), (True, False, 1), (False, True, 2), (True, True, 0)],
)
def test_flags_of_events(library: Library, timing: bool, spin: bool, flags: int) -> None:
    DriverEvent(library.driver, 42, timing=timing, spin=spin)
    assert library.told() == f"create:{flags}"


def test_an_event_that_has_not_happened_is_no_failure(library: Library) -> None:
    event = DriverEvent(library.driver, 42, timing=False, spin=False)
    library.fail(600)
    assert not event.done()
    library.fail(0)
    assert event.done()


def test_times_and_order(library: Library) -> None:
    first, second = (DriverEvent(library.driver, 42, timing=True, spin=False) for _ in range(2))
    assert second.since(first) == 1.0
    library.told()
    second.hold(9)
    assert library.told() == f"hold:9,{second.handle}"


def test_every_status_is_named_and_sticky_ones_are_fatal(library: Library) -> None:
    event = DriverEvent(library.driver, 42, timing=True, spin=False)
    graph = graphs.capture(library.driver, 42, 5, lambda: None)
    library.fail(700)
    for call in (
        event.wait,
        event.done,
        lambda: event.record(5),
        lambda: event.hold(5),
        lambda: event.since(event),
        lambda: graph.launch(Stream()),  # type: ignore[arg-type]
    ):
        with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
            call()
        assert caught.value.fatal
    library.fail(12345)
    with pytest.raises(CudaError, match="CUDA_ERROR_UNKNOWN"):
        event.wait()


def test_a_graph_is_captured_and_launched(library: Library) -> None:
    library.driver.enter(42)
    library.told()
    seen: list[str] = []
    graph = graphs.capture(library.driver, 42, 5, lambda: seen.append(library.told()))
    assert seen == ["begin:1"]
    assert library.told() == "end make:7 free:7"
    graph.launch(Stream())  # type: ignore[arg-type]
    graph.close()
    graph.close()
    assert library.told() == "launch:8,5 drop:8"


def test_a_capture_that_fails_half_way_ends_it(library: Library) -> None:
    def broken() -> None:
        raise CudaError("refused half-way")

    with pytest.raises(CudaError, match="half-way"):
        graphs.capture(library.driver, 42, 5, broken)
    assert library.told() == "begin:1 end free:7"


def test_a_capture_that_cannot_begin_says_so(library: Library) -> None:
    library.fail(900)
    with pytest.raises(
        CudaError, match="starting a capture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    ):
        graphs.capture(library.driver, 42, 5, lambda: None)


def test_leaving_lets_go_of_that_context_only(library: Library) -> None:
    library.driver.enter(42)
    library.told()
    library.driver.leave(43)
    assert library.told() == ""
    library.driver.leave(42)
    assert library.told() == "current:0"


def test_events_of_other_devices_are_refused() -> None:
    device = FakeDevice()
    device.push()
    with pytest.raises(CudaError, match="FakeEvent"):
        own(device.event())  # type: ignore[arg-type]


@pytest.mark.parametrize("library", ["libnosuch.so.1", "libc.so.6"])
def test_a_library_that_is_none_is_told(library: str) -> None:
    with pytest.raises(CudaError, match=library) as caught:
        Driver(library)
    assert caught.value.hint
