"""A kernel that goes astray loses the context: told as fatal, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgetrt.errors import CudaError
from edgetrt.gpu.device import DeviceLibrary, open_device

PROGRAM = """
import sys, tempfile, pathlib, struct
from edgetrt.errors import CudaError
from edgetrt.gpu import compile as kernels
from edgetrt.gpu.device import open_device
device = open_device(sys.argv[1])
device.push()
major, minor = device.info.compute_capability
with tempfile.TemporaryDirectory() as cache:
    module = device.module(kernels.load("detect", major * 10 + minor, pathlib.Path(cache)))
stream = device.stream()
arguments = struct.pack("<QQQiiif", 16, 16, 16, 1, 64, 4, 0.5)
try:
    module.bind("filter_float32", (1, 1, 1), (64, 1, 1), arguments).enqueue(stream)
    stream.synchronize()
except CudaError as error:
    print(error.status, error.fatal, flush=True)
try:
    device.buffer(64)
except CudaError as error:
    print(error.fatal, flush=True)
import os
os._exit(70)
"""


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
def test_an_illegal_address_is_fatal_and_sticks(library: DeviceLibrary) -> None:
    try:
        open_device(library).close()
    except CudaError as error:
        pytest.skip(error.message)
    command = [sys.executable, "-c", PROGRAM, library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.splitlines() == ["CUDA_ERROR_ILLEGAL_ADDRESS True", "True"], done.stderr
    assert done.returncode == 70
