"""The DLA's rules, read from `dla_rules.yaml` and applied to what was measured of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from edgetrt.model.targets import Target, Version, in_range

if TYPE_CHECKING:
    from edgetrt.model.dla_layers import Measures


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule depends on besides the layer."""

    trt: str | None = None
    soc: tuple[str, ...] | None = None
    precision: str | None = None


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a measured value must be."""

    value: str
    reason: str
    fix: str
    min: float | None = None
    max: float | None = None
    allowed: tuple[bool | float | str, ...] | None = msgspec.field(default=None, name="in")
    when: When = When()
    unless: tuple[str, ...] = ()
    source: str = ""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of some operators: they never fit, or they fit within limits."""

    ops: tuple[str, ...] = ()
    source: str = ""
    layer: str = ""
    never: str = ""
    fix: str = "none"
    limits: tuple[Limit, ...] = ()
    when: When = When()


class Fix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way out; `rewrite` names the pass that does it."""

    text: str
    rewrite: str = ""


class Total(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A limit of a whole engine."""

    value: int
    source: str


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `dla_rules.yaml`."""

    sources: dict[str, str]
    totals: dict[str, Total]
    general: tuple[Limit, ...]
    rules: tuple[Rule, ...]
    unknown: Rule
    fixes: dict[str, Fix]


@dataclass(frozen=True, slots=True)
class Setting:
    """What the network is placed for."""

    target: Target
    trt: Version
    precision: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a layer does not fit; `fix` is a key of the rules' fixes."""

    reason: str
    fix: str
    source: str


@cache
def rules() -> Rules:
    """The data, read once."""
    text = resources.files("edgetrt.model").joinpath("dla_rules.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), Rules)


def rule_for(op: str, setting: Setting) -> Rule:
    """The first rule of an operator that counts in this setting."""
    for rule in _by_op().get(op, ()):
        if _counts(rule.when, setting):
            return rule
    return rules().unknown


def first_refusal(
    op: str, limits: tuple[Limit, ...], measures: Measures, setting: Setting, source: str
) -> Refusal | None:
    """The first limit that a layer breaks, None when it fits."""
    for limit in limits:
        if op in limit.unless or not _counts(limit.when, setting):
            continue
        got = measures.get(limit.value)
        bad = [item for item in _items(got) if not _within(item, limit)]
        if got is None:
            text = f"its {limit.value.replace('_', ' ')} cannot be known before the first run"
        elif bad:
            text = limit.reason.format(got=" and ".join(map(_text, dict.fromkeys(bad))))
        else:
            continue
        return Refusal(text, limit.fix, rules().sources[limit.source or source])
    return None


@cache
def _by_op() -> dict[str, tuple[Rule, ...]]:
    table: dict[str, tuple[Rule, ...]] = {}
    for rule in rules().rules:
        for op in rule.ops:
            table[op] = (*table.get(op, ()), rule)
    return table


def _counts(when: When, setting: Setting) -> bool:
    return (
        (when.trt is None or in_range(setting.trt, when.trt))
        and (when.soc is None or setting.target.soc in when.soc)
        and (when.precision is None or setting.precision == when.precision)
    )


def _items(got: Any) -> tuple[Any, ...]:
    return tuple(got) if isinstance(got, (tuple, list)) else (got,)


def _within(item: Any, limit: Limit) -> bool:
    if limit.allowed is not None:
        return any(
            item == value and isinstance(item, str) == isinstance(value, str)
            for value in limit.allowed
        )
    low = limit.min is None or item >= limit.min
    return low and (limit.max is None or item <= limit.max)


def _text(item: Any) -> str:
    return f"{item:g}" if isinstance(item, float) else str(item)
