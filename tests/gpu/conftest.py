"""Devices and compiled kernels: the fake one everywhere, real ones where there is a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetrt.errors import CudaError
from edgetrt.gpu import compile as kernels
from edgetrt.gpu.device import DeviceLibrary, open_device
from edgetrt.ports import Device, Module
from tests.fakes import FakeDevice
from tests.gpu.host_compiler import HostCompiler, available


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module", params=["fake", "cuda-python", "pycuda"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    if request.param == "fake":
        if not available():
            pytest.skip("no host compiler")
        yield FakeDevice()
        return
    names: dict[str, DeviceLibrary] = {"cuda-python": "cuda-python", "pycuda": "pycuda"}
    try:
        opened = open_device(names[request.param])
    except CudaError as error:
        pytest.skip(error.message)
    yield opened
    opened.close()


def load(device: Device, kernel: str, cache: Path) -> Module:
    """Compile for the device and load, with its context pushed."""
    fake = isinstance(device, FakeDevice)
    major, minor = device.info.compute_capability
    compiler = HostCompiler() if fake else None
    image = kernels.load(kernel, major * 10 + minor, cache / str(fake), compiler)
    device.push()
    try:
        return device.module(image)
    finally:
        device.pop()


@pytest.fixture(scope="module")
def preprocess_kernels(device: Device, kernel_cache: Path) -> Module:
    return load(device, "preprocess", kernel_cache)


@pytest.fixture(scope="module")
def detect_kernels(device: Device, kernel_cache: Path) -> Module:
    return load(device, "detect", kernel_cache)
