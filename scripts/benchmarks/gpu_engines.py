"""Stand-in engines for a GPU without TensorRT: PyTorch's convolutions (cuDNN) behind our own session.

They go through the same `DeviceSession`, device and graphs as a plan would; only what
`execute_async_v3` does is PyTorch's. FP16, channels last, eager inside, one CUDA graph outside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgetrt.errors import BackendError, InferenceError
from edgetrt.types import TensorSpec

Network = Callable[[Any], Any]


def torch() -> Any:
    """PyTorch with a GPU.

    Raises:
        BackendError: there is none.
    """
    try:
        import torch as library
    except ImportError as error:
        raise BackendError(f"PyTorch cannot be imported: {error}") from error
    if not library.cuda.is_available():
        raise BackendError("PyTorch sees no GPU")
    library.backends.cudnn.benchmark = True
    return library


class TorchExecution:
    """An `Execution`: a network from one tensor to one tensor, on memory that the session owns."""

    no_graph = ""
    place = "cuda"

    def __init__(self, network: Network, image: TensorSpec, answer: TensorSpec) -> None:
        self._torch = torch()
        self._network = network
        self.inputs, self.outputs = (image,), (answer,)
        self._views: dict[str, Any] = {}
        self._streams: dict[int, Any] = {}

    def bind(self, name: str, pointer: int) -> None:
        """See a tensor of the session as one of PyTorch."""
        spec = next(s for s in (*self.inputs, *self.outputs) if s.name == name)
        self._views[name] = self._torch.as_tensor(_Memory(pointer, spec), device="cuda")

    def enqueue(self, stream: int) -> None:
        """Queue the network's kernels."""
        library = self._torch
        if stream not in self._streams:
            self._streams[stream] = library.cuda.ExternalStream(stream)
        try:
            with library.inference_mode(), library.cuda.stream(self._streams[stream]):
                answer = self._network(self._views[self.inputs[0].name])
                self._views[self.outputs[0].name].copy_(answer)
        except RuntimeError as error:
            raise InferenceError(f"PyTorch refused: {error}") from error

    def twin(self) -> TorchExecution:
        """Share the weights."""
        return TorchExecution(self._network, self.inputs[0], self.outputs[0])

    def close(self) -> None:
        """Let go of the session's memory."""
        self._views.clear()


class _Memory:
    """Device memory as PyTorch, CuPy and numba take it."""

    def __init__(self, pointer: int, spec: TensorSpec) -> None:
        self.__cuda_array_interface__ = {
            "shape": spec.shape,
            "typestr": np.dtype(spec.dtype).str,
            "data": (pointer, False),
            "strides": None,
            "version": 3,
        }


def person(model: Path) -> TorchExecution:
    """The demo's person detector, read from its ONNX file; decoding inside, in float32."""
    import onnx

    graph = onnx.load(model).graph
    network = _Interpreter(torch(), graph)
    shapes = [
        tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (graph.input[0], graph.output[0])
    ]
    image = TensorSpec(graph.input[0].name, shapes[0], "float16")
    return TorchExecution(network, image, TensorSpec(graph.output[0].name, shapes[1], "float32"))


def disagreement(person: TorchExecution, model: Path) -> float:
    """Largest difference of scores between the stand-in and ONNX Runtime FP32 on a noisy picture."""
    import onnxruntime

    spec = person.inputs[0]
    rng = np.random.default_rng(0)
    picture = np.kron(rng.random((1, 3, 24, 32)), np.ones((16, 16))).astype(np.float32)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {spec.name: picture})
    library = person._torch
    with library.inference_mode():
        got = person._network(library.from_numpy(picture).half().to(person.place)).cpu().numpy()
    return float(np.abs(got[:, 4:] - expected[:, 4:]).max())


class _Interpreter:
    """Runs the dozen operators of the person model."""

    def __init__(self, library: Any, graph: Any) -> None:
        from onnx import helper, numpy_helper

        self._torch = library
        self._output = graph.output[0].name
        self._input = graph.input[0].name
        arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self._nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        for node in graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                arrays[node.output[0]] = numpy_helper.to_array(attributes["value"])
            else:
                names = list(node.input), list(node.output)
                self._nodes.append((node.op_type, *names, attributes))
        convolved = {name for op, names, _, _ in self._nodes if op == "Conv" for name in names[1:]}
        self._sizes = {n: a.tolist() for n, a in arrays.items() if n not in convolved}
        self._values = {
            name: self._place(array, name in convolved)
            for name, array in arrays.items()
            if array.dtype == np.float32
        }

    def _place(self, array: Any, convolved: bool) -> Any:
        value = self._torch.from_numpy(np.array(array)).cuda()
        if not convolved:
            return value
        value = value.half()
        if value.ndim == 4:
            value = value.contiguous(memory_format=self._torch.channels_last)
        return value

    def __call__(self, image: Any) -> Any:
        library, values = self._torch, dict(self._values)
        values[self._input] = image.contiguous(memory_format=library.channels_last)
        functional = library.nn.functional
        for op, names, outputs, attributes in self._nodes:
            given = [values.get(name) for name in names]
            if op == "Conv":
                out = functional.conv2d(
                    *given,
                    stride=attributes["strides"],
                    padding=attributes["pads"][:2],
                    groups=attributes["group"],
                )
            elif op == "Relu":
                out = given[0].relu_()
            elif op == "Resize":
                out = functional.interpolate(given[0], scale_factor=2, mode="nearest")
            elif op == "Reshape":
                out = given[0].float().reshape(self._sizes[names[1]])
            elif op == "Concat":
                out = library.cat(given, attributes["axis"])
            elif op == "Sigmoid":
                out = given[0].sigmoid()
            elif op == "Split":
                parts = library.split(given[0], self._sizes[names[1]], attributes["axis"])
                values.update(zip(outputs, parts, strict=True))
                continue
            else:
                out = {"Add": library.add, "Sub": library.sub, "Mul": library.mul}[op](*given)
            values[outputs[0]] = out
        return values[self._output]


def resnet50() -> TorchExecution:
    """A network of ResNet-50's layers (batch norms folded), with random weights."""
    library = torch()
    nn = library.nn
    library.manual_seed(0)

    class Bottleneck(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, before: int, inside: int, stride: int) -> None:
            super().__init__()
            after = 4 * inside
            self.reduce = nn.Conv2d(before, inside, 1)
            self.middle = nn.Conv2d(inside, inside, 3, stride, 1)
            self.expand = nn.Conv2d(inside, after, 1)
            same = before == after and stride == 1
            self.skip = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)

        def forward(self, x: Any) -> Any:
            y = self.middle(self.reduce(x).relu_()).relu_()
            return self.expand(y).add_(self.skip(x)).relu_()

    layers: list[Any] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            inside = 64 << stage
            layers.append(Bottleneck(before, inside, 2 if block == 0 and stage else 1))
            before = 4 * inside
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000)]
    network = nn.Sequential(*layers).eval().cuda().half().to(memory_format=library.channels_last)

    def run(image: Any) -> Any:
        return network(image.contiguous(memory_format=library.channels_last)).float()

    return TorchExecution(
        run,
        TensorSpec("images", (1, 3, 224, 224), "float16"),
        TensorSpec("y", (1, 1000), "float32"),
    )
