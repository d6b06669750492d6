"""A stand-in for TensorRT's Python module at run time: what each version has, and no more.

Any attribute that a version lacks raises AttributeError, as in the real bindings.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Any

from edgetrt.backends.tensorrt_api import Library
from edgetrt.engine.plan import Flavour
from tests.fakes import FakeDevice
from tests.gpu.engines import Doubling


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8 = range(7)


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(Enum):
    DEVICE, HOST = range(2)


class ErrorCodeTRT(Enum):
    UNSPECIFIED_ERROR = 1


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.constructed = True


class IErrorRecorder:
    def __init__(self) -> None:
        self.constructed = True


class StandIn:
    """The module.

    Args:
        version: decides which attributes there are.
        device: whose streams it runs on.
        refuse: `deserialize`, `context`, `bind`, `enqueue`, `shape`: what answers None or False.
        shape: of the input; -1 for dynamic dimensions, with a profile from 1 to 8 and width 2 to 6.
        dtype: of the input.
        host: the input is a shape tensor.
        ragged: the output's size depends on the data.
        dla_cores: of the machine.
    """

    def __init__(
        self,
        device: FakeDevice,
        version: str = "10.3.0",
        refuse: str = "",
        shape: tuple[int, ...] = (1, 6),
        dtype: DataType = DataType.FLOAT,
        host: bool = False,
        ragged: bool = False,
        dla_cores: int = 0,
    ) -> None:
        self.ILogger, self.IErrorRecorder = ILogger, IErrorRecorder
        self.TensorIOMode, self.TensorLocation = TensorIOMode, TensorLocation
        self.ErrorCodeTRT = ErrorCodeTRT
        self.__version__ = version
        self.device, self.refuse, self.shape, self.dtype = device, refuse, shape, dtype
        self.host, self.ragged, self.dla_cores = host, ragged, dla_cores
        self.runtimes: list[Runtime] = []
        self.contexts: list[Context] = []

    @property
    def major(self) -> int:
        return int(self.__version__.split(".")[0])

    def library(self, flavour: Flavour = "tensorrt") -> Library:
        return Library(self, flavour, self.__version__)

    def Runtime(self, logger: Any) -> Runtime:
        assert logger.constructed
        self.runtimes.append(Runtime(self, logger))
        return self.runtimes[-1]


class Runtime:
    def __init__(self, trt: StandIn, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        self.num_DLA_cores = trt.dla_cores
        self.DLA_core = -1
        if trt.major >= 10:
            self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        self.trt.device.check("deserializing")
        if self.trt.refuse == "deserialize":
            self.logger.log(Severity.WARNING, "this is only a warning")
            self.logger.log(Severity.ERROR, "[runtime.cpp] target GPU SM 90 does not match SM 87")
            return None
        return Engine(self.trt, self.logger)


class Engine:
    num_io_tensors = 2

    def __init__(self, trt: StandIn, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        setattr(self, "device_memory_size" + ("_v2" if trt.major >= 10 else ""), 5 << 20)

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.trt.shape

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.trt.dtype if name == "x" else DataType.FLOAT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if self.trt.host and name == "x" else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 2), (4, 4), (8, 6)]

    def create_execution_context(self) -> Context | None:
        self.trt.device.check("making a context")
        if self.trt.refuse == "context":
            self.logger.log(Severity.ERROR, "[allocator.cpp] out of memory")
            return None
        self.trt.contexts.append(Context(self.trt))
        return self.trt.contexts[-1]


class Context:
    error_recorder: Any = None

    def __init__(self, trt: StandIn) -> None:
        self.trt = trt
        self.shape = trt.shape
        self.engine = Doubling(trt.device)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return self.trt.refuse != "shape"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 6) if self.trt.ragged else self.shape

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.engine.bind(name, pointer)
        return self.trt.refuse != "bind"

    def execute_async_v3(self, stream: int) -> bool:
        self.trt.device.check("enqueueing")
        if self.trt.refuse == "enqueue":
            self.error_recorder.report_error(ErrorCodeTRT.UNSPECIFIED_ERROR, "shape was not set")
            return False
        self.engine.enqueue(stream)
        return True


def plan(version: tuple[int, int, int, int] = (10, 3, 0, 30), tag: bytes = b"ftrt") -> bytes:
    """Bytes that begin as a plan does."""
    return tag + struct.pack("<I", 239) + bytes(16) + bytes(version) + b"the engine"
