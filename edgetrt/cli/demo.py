"""`edgetrt demo`: the whole product on one screen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgetrt.config import BrokerConfig
    from edgetrt.demo.observer import Observer
    from edgetrt.demo.performance import Summary

SYNTHETIC, SYNTHETIC_FRAMES = "synthetic:768x576?objects=8", 300
LIMIT_S = 900.0


def demo(
    headless: Annotated[bool, typer.Option(help="No live view, only the summary.")] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="End after this many frames.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video of your own.")] = None,
    broker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Use this broker, not one of our own.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the video and the picture go.")] = Path(
        "demo-out"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find people in a street video and report them over MQTT: broker, agent, runtime, all real."""
    import asyncio
    import signal
    import tempfile

    from edgetrt import config
    from edgetrt.cli.output import out, print_json
    from edgetrt.demo.performance import Plan, perform

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or mosquitto would outlive us
    config.backend(backend)
    _make(output)
    source, frames = _source(video, frames)
    with tempfile.TemporaryDirectory(prefix="edgetrt-") as folder, _broker(broker, folder) as found:
        plan = Plan(
            model=_model(),
            source=source,
            frames=frames,
            backend=backend,
            broker=found,
            folder=Path(folder),
            output=output.resolve(),
            limit_s=LIMIT_S,
        )
        with _view(headless or json, frames, source) as watch:
            summary = asyncio.run(perform(plan, watch))
    report = _report(summary, source, output)
    if json:
        print_json(report)
    else:
        _print(summary, output, out.print)
    if not summary.ok:
        raise typer.Exit(1)


def _make(output: Path) -> None:
    """Make the folder for what the demo leaves behind.

    Raises:
        SinkError: it cannot be made, or nothing can be written in it.
    """
    import tempfile

    from edgetrt.errors import SinkError

    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise SinkError(
            f"{output}: cannot be used as a folder for the video and the picture: {error.strerror}",
            "Name another one: --output FOLDER.",
        ) from error


def _model() -> Path:
    """Find the person model beside the package, in a checkout or as installed.

    Raises:
        ModelError: it is in neither place.
    """
    from edgetrt.errors import ModelError

    places = [Path(__file__).parents[2] / "engines", Path("/usr/share/edgetrt/engines")]
    for place in places:
        if (model := place / "person" / "recipe.yaml").exists():
            return model
    raise ModelError(
        f"the demo's network is in none of {', '.join(map(str, places))}",
        "Run the demo from a checkout, or install the package.",
    )


def _source(video: Path | None, frames: int | None) -> tuple[str, int | None]:
    """Pick the video: the person's own, the street video, or a drawn scene when there is none.

    Raises:
        SourceError: the person's own is not there, or no video.
    """
    from edgetrt import app
    from edgetrt.cli.output import err
    from edgetrt.demo.video import fetch
    from edgetrt.errors import SourceError
    from edgetrt.sources.uri import SourceUri

    if video is not None:
        app.open_source(SourceUri("file", str(video))).close()
        return str(video.resolve()), frames
    try:
        return str(fetch(app.cache_dir(), err.print)), frames
    except SourceError as error:
        err.print(f"{error.message}\n{error.hint}\nShowing a drawn scene instead.", style="yellow")
        return SYNTHETIC, frames or SYNTHETIC_FRAMES


@contextlib.contextmanager
def _broker(named: str | None, folder: str) -> Iterator[BrokerConfig]:
    from edgetrt import config
    from edgetrt.demo.broker import Broker

    if named is not None:
        yield config.broker(named)
        return
    place = Path(folder) / "broker"
    place.mkdir()
    Path(folder).chmod(0o711)  # mosquitto gives up root's rights before it reads its file
    with Broker(place) as started:
        yield config.BrokerConfig(host="127.0.0.1", port=started.port)


@contextlib.contextmanager
def _view(quiet: bool, frames: int | None, source: str) -> Iterator[Callable[[Observer], None]]:
    if quiet:
        yield lambda seen: None
        return
    from rich.live import Live

    from edgetrt.cli.output import out
    from edgetrt.demo.observer import Observer
    from edgetrt.demo.view import render

    with Live(render(Observer(), frames, source), console=out, refresh_per_second=8) as live:
        yield lambda seen: live.update(render(seen, frames, source))


def _report(summary: Summary, source: str, output: Path) -> dict[str, Any]:
    seen = summary.seen
    report = seen.health.pipelines[0] if seen.health and seen.health.pipelines else None
    return {
        "ok": summary.ok,
        "source": source,
        "backend": report.backend if report else None,
        "frames": report.counters.done if report else 0,
        "dropped": report.counters.dropped if report else None,
        "refused": report.counters.refused if report else None,
        "published": seen.health.agent.published if seen.health else 0,
        "received": seen.results,
        "mean_detections": round(seen.mean_objects(), 3),
        "fps": report.fps if report else None,
        "latency_ms": (
            {"p50": report.latency.p50_ms, "p99": report.latency.p99_ms}
            if report and report.latency
            else None
        ),
        "stages_ms": (
            {name: {"p50": s.p50_ms, "p99": s.p99_ms} for name, s in report.stages.items()}
            if report
            else {}
        ),
        "health_messages": seen.healths,
        "elapsed_s": round(summary.elapsed_s, 2),
        "output": [str(output / "street.mp4"), str(output / "street.jpg")],
        "checks": [{"name": c.name, "ok": c.ok, "value": c.value} for c in summary.checks],
    }


def _print(summary: Summary, output: Path, say: Callable[[str], None]) -> None:
    from rich.markup import escape

    for check in summary.checks:
        mark = "[green]✓[/]" if check.ok else "[red]✗[/]"
        say(f" {mark} {check.name}: [bold]{escape(check.value)}[/]")
    if summary.ok:
        say(f"\nLook at {output / 'street.mp4'} and {output / 'street.jpg'}.")
        say("Your own network: edgetrt run MODEL.onnx --source VIDEO --sink video:out.mp4")
