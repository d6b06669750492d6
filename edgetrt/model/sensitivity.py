"""Which layers INT8 hurts, found by trying: the search that makes a mixed network.

    1. Quantize everything and ask for the score. Within the limit: done.
    2. Quantize one group of layers alone. A group that costs next to nothing is harmless as a whole,
       one that costs more is cut in two and both halves are tried: k harmful layers among n take about
       k log2(n/k) trials instead of n.
    3. Quantize all harmless groups together. While the sum of their small losses is over the limit,
       take out the layers with the largest rounding noise, by bisection.
    4. Put back harmful layers, the cheapest first, as far as the limit allows.

When the trials or the time end during step 2, groups are left that are known to cost much and not which of
their layers do. Step 3 then takes out layers in the order of their groups' losses, by bisection.

The score is the caller's, in the measure of the task; nothing here knows what a decode is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from edgetrt.model.mixture import KeptFloat, Mixture, Score, Trials
from edgetrt.model.quantize import Quantizer

STEPS = 127
HARMLESS = 0.25
"""Share of the limit that a group may cost alone and still count as harmless."""


def search(
    quantizer: Quantizer,
    score: Score,
    out: Path,
    limit: float,
    max_trials: int = 80,
    over: Callable[[], bool] = lambda: False,
) -> Mixture:
    """Write the INT8 network with as few layers in floating point as the limit allows.

    Args:
        quantizer: the network with its ranges.
        score: judges a file.
        out: where the mixture goes.
        limit: largest loss of score.
        max_trials: soft end of the search; groups that are not resolved by then are judged as a whole.
        over: another soft end: true when the caller's time is up.

    Returns:
        What was found. When `holds` is false, even the most careful mixture loses more than the limit.
    """
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as work:
        trial = Trials(quantizer, score, Path(work) / "trial.onnx", max_trials, over)
        mixture = _Search(quantizer, trial, limit).run()
    quantizer.write(out, [layer.node for layer in mixture.kept])
    return mixture


def refine(
    quantizer: Quantizer,
    score: Score,
    out: Path,
    limit: float,
    begun: Mixture,
    over: Callable[[], bool] = lambda: False,
) -> Mixture:
    """Write a mixture that a search found by a rougher score, with more layers in floating point if need be.

    By the finer score: what the search kept stays; of the rest those that lost most alone go out until the
    limit holds, and come back in parts as far as it still does.

    Args:
        quantizer: as for `search`.
        score: the finer one.
        out: where the mixture goes.
        limit: largest loss of the finer score.
        begun: what the search found.
        over: soft end; the most careful mixture known to hold is taken then.
    """
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as work:
        trial = Trials(quantizer, score, Path(work) / "trial.onnx", 80, over)
        mixture = _Search(quantizer, trial, limit).go_on(begun)
    quantizer.write(out, [layer.node for layer in mixture.kept])
    return mixture


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring layers and what they cost when they alone are quantized."""

    names: tuple[str, ...]
    loss: float


def _worst_first(groups: list[_Group]) -> list[_Group]:
    return sorted(groups, key=lambda group: group.loss, reverse=True)


class _Search:
    """The four steps, over one network."""

    def __init__(self, quantizer: Quantizer, trial: Trials, limit: float) -> None:
        self._quantizer, self._trial, self._limit = quantizer, trial, limit
        self._nodes = {node.name: node for node in quantizer.candidates()}
        self._float = trial.without(list(self._nodes))
        self._harmless: list[_Group] = []
        self._unresolved: list[_Group] = []

    def run(self) -> Mixture:
        """Search; the reasons are told at the end."""
        everything = self._trial.without(())
        harmful: list[_Group] = []
        extra: list[str] = []
        if not self._ok(everything):
            harmful = self._harmful(tuple(self._nodes), self._float - everything)
            extra = self._more({name for group in harmful for name in group.names})
            harmful = self._put_back(harmful, extra)
        unresolved = [replace(group, loss=float("nan")) for group in self._unresolved]
        groups = {name: group for group in (*unresolved, *harmful) for name in group.names}
        groups = {name: groups[name] for name in groups if name in extra or groups[name] in harmful}
        keep = [name for name in self._nodes if name in groups or name in extra]
        return Mixture(
            kept=tuple(self._told(name, groups.get(name)) for name in keep),
            quantized=len(self._nodes) - len(keep),
            score_float=self._float,
            score_all=everything,
            score=self._trial.without(keep),
            limit=self._limit,
            trials=self._trial.count,
            order=self._order(keep),
        )

    def _order(self, keep: Collection[str]) -> tuple[str, ...]:
        """Quantized layers by the loss of the group they were tried in; those never tried come last."""
        tried = _worst_first([*self._unresolved, *self._harmless])
        names = dict.fromkeys([*(name for group in tried for name in group.names), *self._nodes])
        return tuple(name for name in names if name not in keep)

    def go_on(self, begun: Mixture) -> Mixture:
        """Step 3 behind a search that is over."""
        kept = {layer.node for layer in begun.kept}
        out = self._without_harmless(kept, self._fewest(kept, list(begun.order)))
        extra = [self._told(name, None) for name in out]
        keep = [*kept, *(layer.node for layer in extra)]
        return replace(
            begun,
            kept=(*begun.kept, *extra),
            quantized=len(self._nodes) - len(keep),
            score_float=self._float,
            score=self._trial.without(keep),
            limit=self._limit,
            trials=begun.trials + self._trial.count,
        )

    def _ok(self, score: float) -> bool:
        return self._float - score <= self._limit

    def _harmful(self, names: tuple[str, ...], loss: float) -> list[_Group]:
        """Step 2: the layers that alone cost more than a share of the limit, in graph order."""
        found: list[_Group] = []
        open_groups = [(names[: len(names) // 2], loss), (names[len(names) // 2 :], loss)]
        while open_groups:
            group, parent = open_groups.pop(0)
            if not group:
                continue
            if self._trial.spent:
                self._unresolved.append(_Group(group, parent))
                continue
            loss = self._float - self._trial.only(group)
            if loss <= self._limit * HARMLESS:
                self._harmless.append(_Group(group, loss))
                continue
            if len(group) == 1:
                found.append(_Group(group, loss))
            else:
                middle = len(group) // 2
                open_groups += [(group[:middle], loss), (group[middle:], loss)]
        return found

    def _more(self, harmful: Collection[str]) -> list[str]:
        """Step 3: what else must stay float."""
        if not self._unresolved:
            return self._noisy(harmful)
        first = [name for group in _worst_first(self._unresolved) for name in group.names]
        return self._fewest(harmful, [*first, *self._order({*first, *harmful})])

    def _noisy(self, harmful: Collection[str]) -> list[str]:
        """Step 3: how many of the noisiest other layers must stay float as well."""
        rest = sorted((n for n in self._nodes if n not in harmful), key=self._signal_to_noise)
        return self._fewest(harmful, rest)

    def _fewest(self, harmful: Collection[str], rest: list[str]) -> list[str]:
        """How many from the beginning of `rest` must stay float besides `harmful`, by bisection."""
        if self._ok(self._trial.without(harmful)):
            return []
        few, many = 0, len(rest)
        while many - few > 1:
            middle = (few + many) // 2
            if self._ok(self._trial.without({*harmful, *rest[:middle]})):
                many = middle
            else:
                few = middle
        return rest[:many]

    def _without_harmless(self, kept: Collection[str], out: list[str]) -> list[str]:
        """Quantize parts of `out` again, halves first, as far as limit and trials allow."""
        size = len(out) // 2
        while size:
            for part in [out[at : at + size] for at in range(0, len(out), size)]:
                if self._trial.spent:
                    return out
                fewer = [name for name in out if name not in part]
                if self._ok(self._trial.without({*kept, *fewer})):
                    out = fewer
            size //= 2
        return out

    def _put_back(self, harmful: list[_Group], extra: list[str]) -> list[_Group]:
        """Step 4."""
        kept = list(harmful)
        for group in sorted(harmful, key=lambda g: g.loss if g.loss == g.loss else np.inf):
            if self._trial.spent or group.loss > self._limit:
                break
            fewer = [g for g in kept if g is not group]
            names = {name for g in fewer for name in g.names}
            if self._ok(self._trial.without({*names, *extra})):
                kept = fewer
        return kept

    def _tensors(self, node: onnx.NodeProto) -> list[str]:
        known = self._quantizer.activations
        return [name for name in (*node.input, *node.output) if name in known]

    def _signal_to_noise(self, name: str) -> float:
        """Power over rounding noise of the worst tensor that the layer has quantized."""
        ratios = [np.inf]
        for tensor in self._tensors(self._nodes[name]):
            step = self._step(tensor)
            if step > 0:
                ratios.append(self._quantizer.activations[tensor].power / (step**2 / 12))
        return float(min(ratios))

    def _step(self, tensor: str) -> float:
        low, high = self._quantizer.limits.get(tensor, (0.0, 0.0))
        return max(-low, high) / STEPS

    def _told(self, name: str, group: _Group | None) -> KeptFloat:
        node = self._nodes[name]
        if group is None:
            decibel = 10 * np.log10(max(self._signal_to_noise(name), 1e-9))
            reason = (
                f"rounding noise only {decibel:.0f} dB below its values, and the sum is too much"
            )
            return KeptFloat(name, node.op_type, None, 1, reason)
        loss = None if group.loss != group.loss else group.loss
        shared = next(filter(None, map(self._wiped, self._tensors(node))), "")
        cost = "not resolved within the trials" if loss is None else f"costs {loss:.4f} alone"
        if loss is not None and len(group.names) > 1:
            cost += f" with {len(group.names) - 1} neighbours"
        reason = f"{cost}; {shared}" if shared else cost
        return KeptFloat(name, node.op_type, loss, len(group.names), reason)

    def _wiped(self, tensor: str) -> str:
        """Tells of a channel whose every value rounds to zero beside a larger one's scale."""
        channels, step = self._quantizer.activations[tensor].channels, self._step(tensor)
        lost = channels[(channels > 0) & (channels < step / 2)]
        if not lost.size:
            return ""
        return (
            f"one scale for values up to {channels.max():.4g} and up to {lost.max():.2g} in {tensor}: "
            "the small ones round to nothing"
        )
