"""What a network is: its task, tensors, operators, parameters and work.

`summarize` gives what a pipeline needs and reads no weights; `inspect` gives all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetrt.model import onnx_file
from edgetrt.model.feeding import shown, sized, unfit
from edgetrt.model.flops import count_work
from edgetrt.model.graph import Graph, tensor_spec
from edgetrt.model.metadata import Metadata, guess_task, image_size_of, read_metadata
from edgetrt.model.rewrites.shapes import open_inputs, static_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from edgetrt.types import TensorSpec


@dataclass(frozen=True)
class ModelSummary:
    """What a pipeline must know to feed a network and to read its answers.

    Attributes:
        path: the ONNX file.
        task: as the exporter wrote it, else guessed from the shapes: `detect` or `raw`.
        labels: class names by index; empty when the exporter wrote none.
        stride: pixels per cell of the coarsest head; None when the exporter did not say.
        image_size: width and height in pixels; None when no input is an image or its size is free.
        inputs: those to be fed, in the network's order; weights are not among them.
        outputs: in the network's order.
        metadata: all of the exporter's key-value pairs.
        notes: what was ignored or guessed, in words.
    """

    path: Path
    task: str | None
    labels: tuple[str, ...]
    stride: int | None
    image_size: tuple[int, int] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ModelInfo(ModelSummary):
    """A summary, and what only the whole file can tell.

    Attributes:
        opset: version of ONNX's own operators.
        producer: name and version of the exporter.
        operators: how often each operator is used, most frequent first.
        parameters: numbers in the weights.
        flops: two per multiply-accumulate, for one run; dynamic dimensions count as 1.
        digest: sha256 of the file and its external data files.
    """

    opset: int
    producer: str
    operators: dict[str, int]
    parameters: int
    flops: int
    digest: str


def summarize(path: Path) -> ModelSummary:
    """Read what a pipeline needs, without the weights.

    Raises:
        ModelError: missing, empty, truncated, or not an ONNX file.
    """
    skim = onnx_file.skim(path)
    graph = skim.proto.graph
    inputs = tuple(tensor_spec(v) for v in graph.input if v.name not in skim.initializers)
    outputs = tuple(tensor_spec(value) for value in graph.output)
    props = {item.key: item.value for item in skim.proto.metadata_props}
    said = read_metadata(props)
    notes = list(said.notes)
    task = said.task
    if task is None:
        task = guess_task(inputs, outputs)
        notes.append(f"no task in the metadata; taken for {task!r} by the shapes of its tensors")
    if refused := unfit(inputs, outputs)[0]:
        notes.append(f"cannot be fed with frames: {refused}")
    return ModelSummary(
        path=path,
        task=task,
        labels=said.labels,
        stride=said.stride,
        image_size=_image_size(said, inputs, notes),
        inputs=inputs,
        outputs=outputs,
        metadata=props,
        notes=tuple(notes),
    )


def inspect(path: Path, size: tuple[int, int] | None = None) -> ModelInfo:
    """Read the whole network and count its operators, parameters and work.

    Args:
        path: the ONNX file.
        size: height and width for an image input that leaves them open; None = as the exporter wrote.

    Raises:
        ModelError: as `summarize`, or external data is missing, too short, or outside the folder.
    """
    summary = summarize(path)
    model = onnx_file.load(path)
    files = onnx_file.external_files(model, path)
    graph = Graph.of(model)
    notes = summary.notes
    if size is None and summary.image_size is not None:
        size = summary.image_size[1], summary.image_size[0]
    filled = {spec.name: sized(spec, size).shape for spec in summary.inputs}
    counted = static_shapes(graph, {name: s for name, s in filled.items() if -1 not in s})
    work = count_work(counted)
    if counted is not graph:
        told = ", ".join(f"{name} {shown(filled[name])}" for name in open_inputs(graph))
        notes += (f"open dimensions are counted as {told}",)
    if work.assumed:
        notes += (
            f"FLOPs with dynamic or unknown dimensions counted as 1 in {work.assumed} nodes; "
            "`preprocess.input_size` in a recipe says an open height and width",
        )
    return ModelInfo(
        **{
            **vars(summary),
            "notes": notes,
            "image_size": None if size is None else (size[1], size[0]),
        },
        opset=graph.opset,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        operators=graph.operators(),
        parameters=graph.parameters(),
        flops=work.flops,
        digest=onnx_file.digest(path, files),
    )


def _image_size(
    said: Metadata, inputs: tuple[TensorSpec, ...], notes: list[str]
) -> tuple[int, int] | None:
    """The input tensor's own size when it is fixed; the exporter's word otherwise."""
    sizes = [size for size in map(image_size_of, inputs) if size is not None]
    if len(sizes) != 1 or min(sizes[0]) < 1:
        return said.image_size if sizes else None
    if said.image_size not in (None, sizes[0]):
        notes.append(
            f"metadata imgsz says {said.image_size}, the input is {sizes[0]} (width, height)"
        )
    return sizes[0]
