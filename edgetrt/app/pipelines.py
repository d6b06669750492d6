"""Sources and sinks by their URIs, joined into pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt.app.networks import active, open_deployed, open_network
from edgetrt.clock import SystemClock
from edgetrt.errors import ConfigError
from edgetrt.types import Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgetrt.config import PipelineConfig
    from edgetrt.ports import Sink, Source
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.supervisor import Supervisor
    from edgetrt.sources.uri import SourceUri


def open_source(uri: SourceUri) -> Source:
    """Open a source; a live one comes with its newest-wins slot.

    Raises:
        SourceError: what the URI names cannot be read.
    """
    from edgetrt.runtime.newest import Newest
    from edgetrt.sources.images import ImageSource
    from edgetrt.sources.rtsp import RtspSource
    from edgetrt.sources.synthetic import SyntheticSource
    from edgetrt.sources.video import VideoFileSource

    kinds: dict[str, Callable[..., Source]] = {
        "file": VideoFileSource,
        "rtsp": RtspSource,
        "rtsps": RtspSource,
        "dir": ImageSource,
        "synthetic": SyntheticSource,
    }
    source = kinds[uri.scheme](uri.target, **uri.arguments())
    return Newest(source) if source.live else source


def open_sink(text: str, base: Path, *, live: bool) -> Sink:
    """Open a sink by its URI; sinks of a live source leave results out rather than wait.

    Raises:
        ConfigError: an unknown scheme.
        SinkError: it cannot be written.
    """
    from edgetrt import wire
    from edgetrt.sinks.image import ImageSink
    from edgetrt.sinks.jsonl import JsonlSink
    from edgetrt.sinks.video import VideoSink

    scheme, colon, rest = text.partition(":")
    path = base / Path(rest).expanduser()
    if colon and rest and scheme == "jsonl":
        encode = lambda result: wire.encode(wire.result_message(result))  # noqa: E731
        return JsonlSink(None if rest == "-" else path, encode)
    if colon and rest and scheme == "video":
        return VideoSink(path, block=not live)
    if colon and rest and scheme == "image":
        return ImageSink(path)
    raise ConfigError(
        f"sink {text!r}: expected jsonl:PATH, video:PATH or image:PATH",
        "Use `jsonl:-` for standard output.",
    )


def supervisor(
    pipeline: PipelineConfig,
    base: Path,
    *,
    source: SourceUri | None = None,
    sinks: Callable[[], Sequence[Sink]] = tuple,
) -> Supervisor:
    """Join everything that one pipeline needs.

    Args:
        pipeline: its settings.
        base: the folder that the settings' relative paths start from.
        source: instead of the one in the settings.
        sinks: makes those that come besides the settings' own.
    """
    from edgetrt.engine import recipe as recipes
    from edgetrt.sources import uri as uris

    def network() -> Network:
        """What is deployed under this name now, else what the settings name."""
        deployed = active().get(pipeline.name)
        if deployed is not None:
            return open_deployed(deployed)
        recipe = recipes.for_pipeline(pipeline, base)
        return open_network(recipe, pipeline.backend, pipeline.threads, pipeline.depth)

    uri = source or uris.parse(pipeline.source, base)
    live = uri.scheme.startswith("rtsp") or "rate_hz" in uri.options or "realtime" in uri.options
    return join(
        pipeline.name,
        lambda: open_source(uri),
        network,
        [*(open_sink(text, base, live=live) for text in pipeline.sinks), *sinks()],
        Grant(pipeline.rate_hz),
    )


def join(
    name: str,
    source: Callable[[], Source],
    network: Callable[[], Network],
    sinks: Sequence[Sink] = (),
    grant: Grant = Grant(),  # noqa: B008 - it is frozen
) -> Supervisor:
    """Make the supervisor of a pipeline from what opens its parts."""
    from edgetrt.runtime.meter import Meter
    from edgetrt.runtime.supervisor import Supervisor

    clock = SystemClock()
    return Supervisor(
        name=name,
        open_source=source,
        open_network=network,
        sinks=sinks,
        meter=Meter(name, clock),
        clock=clock,
        grant=grant,
    )
