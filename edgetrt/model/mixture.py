"""Networks that are INT8 in part: what a search finds, and the trials it makes on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from edgetrt.model.quantize import Quantizer

Score = Callable[[Path], float]
"""Of an ONNX file; higher is better."""


@dataclass(frozen=True, slots=True)
class KeptFloat:
    """A layer that is not quantized.

    Attributes:
        node: its name.
        op: its operator.
        loss: what the score lost with only its group quantized; None when it was not tried alone.
        group: number of layers in the group that was tried.
        reason: in words.
    """

    node: str
    op: str
    loss: float | None
    group: int
    reason: str


@dataclass(frozen=True, slots=True)
class Mixture:
    """The outcome of a search.

    Attributes:
        kept: layers in floating point.
        quantized: number of layers in INT8.
        score_float: of the network as it was.
        score_all: with every layer quantized.
        score: of the mixture.
        limit: largest loss allowed.
        trials: networks that were scored.
        order: the quantized layers, by what their group lost when tried alone, the most first.
    """

    kept: tuple[KeptFloat, ...]
    quantized: int
    score_float: float
    score_all: float
    score: float
    limit: float
    trials: int
    order: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """The mixture stays within the limit."""
        return self.score_float - self.score <= self.limit


class Trials:
    """Scores mixtures, counts them, and remembers what it has seen."""

    def __init__(
        self,
        quantizer: Quantizer,
        score: Score,
        path: Path,
        most: int,
        over: Callable[[], bool],
    ) -> None:
        self._quantizer, self._score, self._path, self._most = quantizer, score, path, most
        self._over = over
        self._names = [node.name for node in quantizer.candidates()]
        self._seen: dict[frozenset[str], float] = {}

    @property
    def count(self) -> int:
        """Networks scored so far."""
        return len(self._seen)

    @property
    def spent(self) -> bool:
        """No more of them are wanted."""
        return self.count >= self._most or self._over()

    def without(self, keep: Collection[str]) -> float:
        """Score with everything quantized but `keep`."""
        key = frozenset(keep)
        if key not in self._seen:
            self._quantizer.write(self._path, key)
            self._seen[key] = self._score(self._path)
        return self._seen[key]

    def only(self, names: Collection[str]) -> float:
        """Score with nothing quantized but `names`."""
        return self.without([name for name in self._names if name not in names])
