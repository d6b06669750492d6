"""How one network is read: what its file says, with the recipe's word on top."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from edgetrt.config import PreprocessConfig
from edgetrt.engine.accuracy import Gate
from edgetrt.errors import ConfigError, ModelError
from edgetrt.geometry import fit
from edgetrt.model.feeding import shown, sized, unfit
from edgetrt.model.inspect import summarize
from edgetrt.model.metadata import image_size_of
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


log = logging.getLogger(__name__)

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
    def _named(self) -> str:
        """The task as the recipe or the file names it."""
        wanted = self.recipe.config.task.kind
        return (self.summary.task or "raw") if wanted == "auto" else wanted

    @property
    def kind(self) -> str:
        """The task that is done: `detect`, else `raw`, which gives the network's own tensors."""
        return "detect" if self._named == "detect" else "raw"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is taken for granted of the network, in words."""
        notes = []
        if self._named != self.kind:
            notes.append(
                f"its task is {self._named!r}, which edgetrt does not decode: results are the "
                "network's own tensors"
            )
        if refused := unfit(self.summary.inputs, self.summary.outputs)[0]:
            notes.append(f"cannot be fed with frames: {refused}")
        if self.kind == "raw" and (taken := self._pixels_taken()):
            notes.append(taken)
        return tuple(notes)

    def _pixels_taken(self) -> str:
        """How pixels are given to a raw network whose recipe does not say it; empty when it does."""
        asked, usual = self.recipe.config.preprocess, PreprocessConfig()
        said = any(getattr(asked, key) != getattr(usual, key) for key in ("scale", "mean", "std"))
        if said or any(unfit(self.summary.inputs, self.summary.outputs)):
            return ""
        whole = self.summary.inputs[0].dtype == "uint8"
        values = "0..255, as they are" if whole else "0..1, without mean and std"
        return (
            f"pixels are given in {asked.color.upper()}, {values}; `preprocess` in a recipe says it "
            "otherwise (docs/recipes.md)"
        )

    @cached_property
    def input(self) -> TensorSpec:
        """The image input; what is open is set as the recipe or else the exporter's metadata says.

        Raises:
            ModelError: the network takes something else than one image, or nobody says its size.
            ConfigError: the recipe says another size than the file.
        """
        if len(self.summary.inputs) != 1:
            raise self._unfit()
        (spec,) = self.summary.inputs
        wanted = self.recipe.config.preprocess.input_size
        if wanted is not None:
            filled = sized(spec, wanted)
            if image_size_of(filled) != wanted[::-1]:
                raise ConfigError(
                    f"{self.recipe.path}: preprocess.input_size: {list(wanted)} (height, width) does not "
                    f"fit input {spec.name!r} {shown(spec.shape)} of {self.recipe.model.name}",
                    "Leave it out: it is for networks whose height and width are open.",
                )
            return filled
        said = self.summary.image_size
        filled = sized(spec, (said[1], said[0]) if said is not None else None)
        if -1 in filled.shape:
            if image_size_of(filled) is None:
                raise self._unfit()
            raise ModelError(
                f"{self.recipe.model}: input {spec.name!r} has open dimensions {shown(spec.shape)}, and "
                "the file does not say which size it was made for",
                f"Say it in a recipe, a file `{self.recipe.model.stem}.yaml` with two lines: "
                f"`model: {self.recipe.model.name}` and `preprocess: {{input_size: [640, 640]}}` "
                "(height, width); or export it with a fixed size.",
            )
        return filled

    def _unfit(self) -> ModelError:
        what, hint = unfit(self.summary.inputs, self.summary.outputs)
        return ModelError(f"{self.recipe.model}: {what}", hint)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Sizes for `Backend.load`."""
        return {self.input.name: self.input.shape}

    def task(self, score: float | None = None) -> Task:
        """What decodes the output; `score` instead of the recipe's limit.

        Raises:
            ModelError: outputs that are not the task's.
        """
        config = self.recipe.config.task
        if self.kind == "raw":
            return Raw()
        limits = config if score is None else msgspec.structs.replace(config, score=score)
        return self._detector(limits)

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
        """Join a loaded session with preprocessing (on the CPU unless another is given) and task.

        Raises:
            ModelError: it takes no image.
        """
        if any(unfit(self.summary.inputs, self.summary.outputs)):
            session.close()
            raise self._unfit()
        if self._named != self.kind:
            log.warning("%s: %s", self.recipe.model, self.notes[0])
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
