"""Is a release as good as it promised, and as what was before: one pure function from what was seen.

`edgetrt.update.measure` says how the figures are taken. **Worse than before** compares with the release
before on this device, as it ran in the minute before its successor was built, by the same questions and with
`worse_percent` of room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgetrt.update.built import Built
from edgetrt.update.measure import FEW, LEAK_MB, LEAK_SHARE, Seen, above, leaks, p99
from edgetrt.update.record import Check, Figures, Verdict
from edgetrt.update.release import Bands, Part, Release

SILENT_S = 30.0
"""A runtime that says nothing for so long is gone; a fresh start loads its networks in less."""

_PATIENCE = 3.0
_PATIENCE_S = 60.0
"""A slow pipeline is watched for this many times `prove_s` and so much longer, until it has them."""
_MOST_RESTARTS = 2


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What there is to judge by.

    Attributes:
        pipelines: by name.
        memory_mb: of the runtime, over the watch, evenly; empty = not known.
        temperature_c: the highest of the watch; None = not known.
        watched_s: for how long this has been watched.
        log: the last lines.
    """

    pipelines: Mapping[str, Seen] = field(default_factory=dict)
    memory_mb: Sequence[float] = ()
    temperature_c: float | None = None
    watched_s: float = 0.0
    log: tuple[str, ...] = ()


def judge(
    release: Release, built: Built | None, before: Mapping[str, Figures], seen: Observed
) -> Verdict | None:
    """Judge a release.

    Args:
        release: with what it promised.
        built: which engines were made for it.
        before: how the release before ran on this device, by pipeline.
        seen: what was seen of it since the switch.

    Returns:
        The verdict; None = it is too early for one.
    """
    engines = {part.name: part.engine for part in built.pipelines} if built else {}
    lost = [
        check
        for part in release.pipelines
        for check in _lost(part, engines.get(part.name, ""), _of(seen, part))
    ]
    if lost:
        return Verdict(checks=(*_golden(built), *lost), log=seen.log)
    if not all(_enough(part.bands, _of(seen, part), seen.watched_s) for part in release.pipelines):
        return None
    checks = [
        check
        for part in release.pipelines
        for check in _pipeline(part, engines.get(part.name, ""), before, _of(seen, part))
    ]
    return Verdict(
        checks=(*_golden(built), *checks, *_machine(release, seen)),
        log=() if ok(checks) else seen.log,
    )


def ok(checks: Sequence[Check]) -> bool:
    """Whether every check held."""
    return all(check.ok for check in checks)


def _of(seen: Observed, part: Part) -> Seen:
    return seen.pipelines.get(part.name, Seen())


def _enough(bands: Bands, seen: Seen, watched_s: float) -> bool:
    """Whether a pipeline was watched for long enough, or for far too long."""
    if watched_s >= _PATIENCE * bands.prove_s + _PATIENCE_S:
        return True
    return seen.span_s >= bands.prove_s and seen.done >= FEW


def _lost(part: Part, engine: str, seen: Seen) -> Iterator[Check]:
    """What no further watching would mend."""
    name = part.name
    if seen.starts:
        yield Check(
            name=f"{name}: runtime",
            ok=False,
            value=f"ended and was started again {_times(seen.starts)}",
            limit="runs through",
        )
    if seen.restarts > _MOST_RESTARTS:
        yield _restarts(name, seen)
    if seen.state == "failed":
        yield Check(
            name=f"{name}: state", ok=False, value=f"given up: {seen.error}", limit="running"
        )
    if seen.silent_s is not None and seen.silent_s > SILENT_S:
        yield Check(
            name=f"{name}: runtime",
            ok=False,
            value=f"silent for {seen.silent_s:.0f} s",
            limit=f"a report within {SILENT_S:.0f} s",
        )
    if engine and seen.engine and not engine.startswith(seen.engine):
        yield _engine(name, engine, seen)


def _pipeline(
    part: Part, engine: str, before: Mapping[str, Figures], seen: Seen
) -> Iterator[Check]:
    name, bands = part.name, part.bands
    few = f" ({seen.state or 'never reported'}{f': {seen.error}' if seen.error else ''})"
    yield Check(
        name=f"{name}: results",
        ok=seen.done >= FEW,
        value=f"{seen.done} in {seen.span_s:.0f} s{few if seen.done < FEW else ''}",
        limit=f">= {FEW}",
    )
    if seen.done < FEW:
        return
    if engine:
        yield _engine(name, engine, seen)
    if bands.fps_min is not None:
        yield _fps(f"{name}: fps", seen, bands.fps_min)
    if bands.p99_ms_max is not None:
        yield _p99(f"{name}: p99", seen, bands.p99_ms_max)
    yield from _worse(name, bands, before.get(name), seen)
    share = seen.refused / max(1, seen.read)
    yield Check(
        name=f"{name}: errors",
        ok=share <= bands.error_rate_max,
        value=f"{seen.refused} of {seen.read} frames refused",
        limit=f"<= {bands.error_rate_max:.2%}",
    )
    yield _restarts(name, seen)


def _worse(name: str, bands: Bands, before: Figures | None, seen: Seen) -> Iterator[Check]:
    if before is None or bands.worse_percent is None:
        return
    part = bands.worse_percent / 100
    least = round(before.fps * (1 - part), 2)
    yield _fps(f"{name}: fps against before", seen, least)
    if before.p99_ms is not None:
        yield _p99(f"{name}: p99 against before", seen, round(before.p99_ms * (1 + part), 2))


def _fps(name: str, seen: Seen, least: float) -> Check:
    enough = seen.fps >= least
    sated = not enough and seen.sated
    told = ", all that its source gave" if sated else ""
    return Check(
        name=name,
        ok=enough or sated,
        value=f"{seen.fps:.2f} Hz over {seen.span_s:.0f} s{told}",
        limit=f">= {least:g} Hz",
    )


def _p99(name: str, seen: Seen, most_ms: float) -> Check:
    if not seen.latencies_ms:
        return Check(name=name, ok=False, value="no frame was timed", limit=f"<= {most_ms:g} ms")
    over, chance = above(seen.latencies_ms, most_ms)
    return Check(
        name=name,
        ok=over <= chance,
        value=f"{p99(seen.latencies_ms):.2f} ms, {over} of {len(seen.latencies_ms)} frames above",
        limit=f"<= {most_ms:g} ms, {chance} above by chance",
    )


def _engine(name: str, engine: str, seen: Seen) -> Check:
    return Check(
        name=f"{name}: engine",
        ok=bool(seen.engine) and engine.startswith(seen.engine),
        value=seen.engine[:12] or "none",
        limit=engine[:12],
    )


def _restarts(name: str, seen: Seen) -> Check:
    told = f": {seen.error}" if seen.error else ""
    return Check(
        name=f"{name}: restarts",
        ok=seen.restarts <= _MOST_RESTARTS,
        value=f"{seen.restarts}{told}",
        limit=f"<= {_MOST_RESTARTS}",
    )


def _machine(release: Release, seen: Observed) -> Iterator[Check]:
    bands = [part.bands for part in release.pipelines]
    if seen.memory_mb:
        limits = [band.memory_mb_max for band in bands if band.memory_mb_max is not None]
        if len(limits) == len(bands):
            held = max(seen.memory_mb)
            yield Check(
                name="memory",
                ok=held <= sum(limits),
                value=f"{held:.0f} MB",
                limit=f"<= {sum(limits):g} MB",
            )
        leak, grown = leaks(seen.memory_mb, seen.watched_s)
        yield Check(
            name="memory growth",
            ok=not leak,
            value=f"{grown:+.0f} MB in {seen.watched_s:.0f} s",
            limit=f"levels off, or < {max(LEAK_MB, LEAK_SHARE * seen.memory_mb[0]):.0f} MB",
        )
    heats = [band.temperature_c_max for band in bands if band.temperature_c_max is not None]
    if heats and seen.temperature_c is not None:
        yield Check(
            name="temperature",
            ok=seen.temperature_c <= min(heats),
            value=f"{seen.temperature_c:.1f} °C",
            limit=f"<= {min(heats):g} °C",
        )


def _golden(built: Built | None) -> tuple[Check, ...]:
    return built.checks if built else ()


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
