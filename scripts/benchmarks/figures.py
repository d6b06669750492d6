"""What a benchmark says: figures beside their goals, as a table or as one JSON object."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One measured number; with a goal it is judged.

    Attributes:
        name: what it is, as its key in the JSON.
        value: the number; None when it could not be measured, `note` says why.
        unit: of the value; empty for a ratio.
        goal: the limit, None for a figure that only informs.
        better: on which side of the goal the value must lie.
        note: how to read it.
    """

    name: str
    value: float | None
    unit: str = ""
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal holds; None without a goal or without a value."""
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of blocks measured one right after the other.

    What else the machine does slows a pair alike, so that it cancels; a ratio of medians keeps it.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def machine() -> dict[str, Any]:
    """On what it was measured."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def report(
    title: str, figures: Sequence[Figure], context: Mapping[str, Any], *, as_json: bool
) -> int:
    """Print; returns the exit code: 1 when a goal is missed."""
    if as_json:
        rows = {
            f.name: {"value": f.value, "unit": f.unit, "goal": f.goal, "met": f.met, "note": f.note}
            for f in figures
        }
        print(json.dumps({"benchmark": title, **context, "machine": machine(), "figures": rows}))
    else:
        _print_table(title, figures, context)
    return int(any(f.met is False for f in figures))


def _print_table(title: str, figures: Sequence[Figure], context: Mapping[str, Any]) -> None:
    print(f"{title}: {', '.join(f'{k} {v}' for k, v in {**context, **machine()}.items())}")
    width = max(len(f.name) for f in figures)
    for f in figures:
        value = "-" if f.value is None else f"{f.value:.3f}{f' {f.unit}' if f.unit else ''}"
        sign = "<=" if f.better == "lower" else ">="
        goal = "" if f.goal is None else f"{sign} {f.goal:g}"
        verdict = {True: "met", False: "MISSED", None: ""}[f.met]
        print(f"  {f.name:{width}}  {value:>12}  {goal:>8}  {verdict:6}  {f.note}".rstrip())
