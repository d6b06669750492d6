"""How one network is read: what its file says, with the recipe's word on top."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from edgetrt.engine.accuracy import Gate
from edgetrt.errors import ConfigError, ModelError
from edgetrt.geometry import fit
from edgetrt.model.inspect import summarize
from edgetrt.runtime.network import Network, assemble
from edgetrt.runtime.preprocess import Preprocessor
from edgetrt.runtime.tasks.detect import Detector
from edgetrt.runtime.tasks.heads import HeadDetector
from edgetrt.runtime.tasks.raw import Raw

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrt.config import TaskConfig
    from edgetrt.engine.recipe import Recipe
    from edgetrt.model.inspect import ModelSummary
    from edgetrt.ports import Session
    from edgetrt.runtime.network import Input, Task
    from edgetrt.types import Shape, TensorSpec


RANKED_FROM = 0.01
"""Average precision ranks boxes of every score; below this they are noise."""


@dataclass(frozen=True)
class Reading:
    """A recipe together with what the network's file says.

    Args:
        recipe: the network and the settings.
        summary: of the file.
    """

    recipe: Recipe
    summary: ModelSummary

    @classmethod
    def of(cls, recipe: Recipe) -> Reading:
        """Read the network's file, without its weights.

        Raises:
            ModelError: it is missing or damaged.
        """
        return cls(recipe, summarize(recipe.model))

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.recipe.config.task.labels or self.summary.labels

    @property
    def kind(self) -> str:
        """The task."""
        wanted = self.recipe.config.task.kind
        return (self.summary.task or "raw") if wanted == "auto" else wanted

    @cached_property
    def input(self) -> TensorSpec:
        """The image input, with every dimension that is open set as the exporter's metadata says.

        Raises:
            ModelError: the network takes something else than one image.
        """
        if len(self.summary.inputs) != 1:
            names = ", ".join(spec.name for spec in self.summary.inputs)
            raise ModelError(
                f"{self.recipe.model}: takes {len(self.summary.inputs)} inputs ({names}): "
                "expected one image",
                "Fold the other inputs into the network as constants when you export it.",
            )
        (spec,) = self.summary.inputs
        if len(spec.shape) != 4 or -1 not in spec.shape:
            return spec
        width, height = self.summary.image_size or (-1, -1)
        wish = (1, height, width, 3) if spec.shape[3] == 3 else (1, 3, height, width)
        shape = tuple(w if n < 0 else n for w, n in zip(wish, spec.shape, strict=True))
        if -1 in shape:
            raise ModelError(
                f"{self.recipe.model}: input {spec.name!r} has open dimensions {list(spec.shape)}, and "
                "the file does not say which size it was made for",
                "Export it with a fixed size, for example `yolo export format=onnx imgsz=640`.",
            )
        return replace(spec, shape=shape)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Sizes for `Backend.load`."""
        return {self.input.name: self.input.shape}

    def task(self, score: float | None = None) -> Task:
        """What decodes the output; `score` instead of the recipe's limit.

        Raises:
            ConfigError: a task that is not decoded.
            ModelError: outputs that are not the task's.
        """
        config = self.recipe.config.task
        if self.kind == "detect":
            limits = config if score is None else msgspec.structs.replace(config, score=score)
            return self._detector(limits)
        if self.kind == "raw":
            return Raw()
        raise ConfigError(
            f"{self.recipe.model}: its task is {self.kind!r}, which edgetrt does not decode yet",
            "Set `task: {kind: raw}` to get the network's own tensors, or use a detection model.",
        )

    @property
    def filterable(self) -> tuple[str, float] | None:
        """The output that a device may filter by score before it is read, and the score; None: none."""
        task = self.task()
        return task.filterable if isinstance(task, Detector) else None

    def gate(self) -> Gate:
        """Judge by boxes where the task is detection, by the tensors where it is not decoded."""
        config = self.recipe.config
        if self.kind != "detect":
            return Gate("raw", config.accuracy.max_loss)
        everything = self._detector(
            msgspec.structs.replace(config.task, score=RANKED_FROM, only=None)
        )
        shape = self.input.shape
        size = (shape[3], shape[2]) if shape[1] == 3 else (shape[2], shape[1])
        whole = fit(size, size, "stretch")
        return Gate(
            "detect",
            config.accuracy.max_loss,
            decode=lambda tensors: everything.decode(tensors, whole, size),
            score=config.task.score,
            labels=self.labels,
        )

    def _detector(self, limits: TaskConfig) -> Detector | HeadDetector:
        """A decoder of the output, or of the heads where the network leaves its decoding outside."""
        outputs, head = self.summary.outputs, self.summary.metadata.get("head")
        if head is not None:
            return HeadDetector(head, outputs, self.labels, limits)
        return Detector(outputs, self.labels, limits)

    def network(
        self,
        session: Session,
        fingerprint: str,
        backend: str,
        depth: int,
        preprocessor: Callable[[Session], Input] | None = None,
    ) -> Network:
        """Join a loaded session with preprocessing (on the CPU unless another is given) and task."""
        return assemble(
            session,
            fingerprint=fingerprint,
            backend=backend,
            labels=self.labels,
            task=self.task(),
            preprocessor=preprocessor or self.on_cpu,
            depth=depth,
        )

    def on_cpu(self, session: Session) -> Preprocessor:
        """Preprocess on the CPU, into the session's own buffer."""
        (spec,) = session.inputs
        return Preprocessor(spec, session.buffers[spec.name], self.recipe.config.preprocess)
