"""Sources and sinks by their URIs, joined into pipelines."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgetrt import document, wire
from edgetrt.app.networks import active, open_deployed, open_network
from edgetrt.clock import SystemClock
from edgetrt.errors import ConfigError, SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgetrt.config import PipelineConfig
    from edgetrt.ports import Sink, Source
    from edgetrt.runtime.network import Network
    from edgetrt.runtime.supervisor import Supervisor
    from edgetrt.sources.uri import SourceUri


SINKS = ("jsonl", "video", "image")
STDOUT = "jsonl:-"


def open_source(uri: SourceUri) -> Source:
    """Open a source; a live one comes with its newest-wins slot.

    Raises:
        SourceError: what the URI names cannot be read.
    """
    from edgetrt.runtime.newest import Newest

    source = _source_kind(uri.scheme)(uri.target, **uri.arguments())
    return Newest(source) if source.live else source


def _source_kind(scheme: str) -> Callable[..., Source]:
    """What opens a scheme. Others stay unread: from a cold disk FFmpeg's libraries alone take a second."""
    if scheme == "file":
        from edgetrt.sources.video import VideoFileSource

        return VideoFileSource
    if scheme == "dir":
        from edgetrt.sources.images import ImageSource

        return ImageSource
    if scheme == "synthetic":
        from edgetrt.sources.synthetic import SyntheticSource

        return SyntheticSource
    if scheme in ("csi", "v4l2", "gst"):
        from edgetrt.sources.gstreamer import CsiSource, GStreamerSource, V4l2Source

        cameras: dict[str, Callable[..., Source]] = {
            "csi": CsiSource,
            "v4l2": V4l2Source,
            "gst": GStreamerSource,
        }
        return cameras[scheme]
    from edgetrt.sources.rtsp import RtspSource

    return {"rtsp": RtspSource, "rtsps": RtspSource}[scheme]


def whole_sink(text: str, base: Path) -> str:
    """Write a sink's URI with its whole path; relative ones start from `base`.

    Raises:
        ConfigError: an unknown scheme, or no path.
    """
    scheme, _, rest = text.partition(":")
    if scheme not in SINKS or not rest:
        raise ConfigError(
            f"sink {text!r}: expected jsonl:PATH, video:PATH or image:PATH",
            "Use `jsonl:-` for standard output.",
        )
    if scheme == "jsonl" and _values_asked(rest)[0] == "-":
        return text
    try:
        return f"{scheme}:{base / Path(rest).expanduser()}"
    except RuntimeError:  # no such user
        return f"{scheme}:{base / rest}"


def open_sinks(
    texts: Sequence[str], base: Path, *, live: bool, file: Path | None = None
) -> list[Sink]:
    """Open sinks by their URIs; those of a live source leave results out rather than wait.

    Args:
        texts: their URIs.
        base: the folder that relative paths start from.
        live: the source is.
        file: the pipeline file that names them, for errors to say where.

    Raises:
        ConfigError: an unknown scheme, or two that would write over each other.
        SinkError: one cannot be written; none is open then.
    """
    opened: list[Sink] = []
    try:
        for number, text in enumerate(_whole_sinks(texts, base, file)):
            with _told_in(file, f"sinks[{number}]"):
                opened.append(_open_sink(text, live=live))
    except SinkError:
        for sink in opened:
            sink.close()
        raise
    return opened


def _whole_sinks(texts: Sequence[str], base: Path, file: Path | None) -> list[str]:
    whole: list[str] = []
    for number, text in enumerate(texts):
        with _told_in(file, f"sinks[{number}]"):
            whole.append(whole_sink(text, base))
            targets = [_values_asked(one)[0] for one in whole]
            if targets.count(targets[-1]) > 1:
                raise ConfigError(
                    f"sink {targets[-1]!r}: is there {targets.count(targets[-1])} times",
                    "Name each file once.",
                )
    return whole


def parts_named(
    pipeline: PipelineConfig, base: Path, file: Path | None = None
) -> tuple[SourceUri, list[str]]:
    """The source and the sinks that a pipeline's settings name, which came from `file`.

    Raises:
        ConfigError: one is written wrongly.
    """
    from edgetrt.sources import uri as uris

    with _told_in(file, "source"):
        source = uris.parse(pipeline.source, base)
    return source, _whole_sinks(pipeline.sinks, base, file)


@contextmanager
def _told_in(file: Path | None, key: str) -> Iterator[None]:
    """Let a mistake in a value be told with file, line and key."""
    try:
        yield
    except (ConfigError, SinkError) as error:
        where = document.place(file, key) if file is not None else ""
        if not where:
            raise
        raise type(error)(f"{where}: {error.message}", error.hint) from error


def _open_sink(text: str, *, live: bool) -> Sink:
    scheme, _, rest = text.partition(":")
    if scheme == "video":
        from edgetrt.sinks.video import VideoSink

        return VideoSink(Path(rest), block=not live)
    if scheme == "image":
        from edgetrt.sinks.image import ImageSink

        return ImageSink(Path(rest))
    from edgetrt.sinks.jsonl import JsonlSink

    rest, most = _values_asked(rest)
    encode = lambda result: wire.encode(wire.result_message(result, 0, most))  # noqa: E731
    return JsonlSink(None if rest == "-" else Path(rest), encode)


def uses_stdout(texts: Sequence[str]) -> bool:
    """Whether a sink writes to standard output."""
    return any(_values_asked(text)[0] == STDOUT for text in texts)


def _values_asked(rest: str) -> tuple[str, int]:
    """A file without its `?values=N`, and N: tensors of more values are told by their shape alone."""
    asked = re.fullmatch(r"(.+)\?values=([0-9]{1,9})", rest, re.DOTALL)
    return (asked[1], int(asked[2])) if asked else (rest, wire.MAX_RAW_VALUES)


def supervisor(
    pipeline: PipelineConfig,
    base: Path,
    *,
    source: SourceUri | None = None,
    sinks: Callable[[], Sequence[Sink]] = tuple,
    deployed: bool = True,
    network: Callable[[], Network] | None = None,
    file: Path | None = None,
) -> Supervisor:
    """Join everything that one pipeline needs.

    Args:
        pipeline: its settings.
        base: the folder that the settings' relative paths start from.
        source: instead of the one in the settings.
        sinks: makes those that come besides the settings' own.
        deployed: run the engine that was deployed under the pipeline's name, when there is one.
        network: opens the network, instead of `deployed` and what the settings name.
        file: where the settings come from, for errors to say it.

    Raises:
        ConfigError: the source or a sink is written wrongly.
        SinkError: a sink cannot be written.
    """
    from edgetrt.sources import uri as uris

    def found() -> Network:
        """What is deployed under this name now, else what the settings name."""
        record = active().get(pipeline.name) if deployed else None
        return open_configured(pipeline, base) if record is None else open_deployed(record)

    with _told_in(file, "source"):
        uri = source or uris.parse(pipeline.source, base)
    return join(
        pipeline.name,
        lambda: open_source(uri),
        network or found,
        [*open_sinks(pipeline.sinks, base, live=uri.live, file=file), *sinks()],
        pipeline.rate_hz,
    )


def open_configured(pipeline: PipelineConfig, base: Path) -> Network:
    """Load the network that a pipeline's settings name.

    Raises:
        ConfigError: the recipe is wrong.
        ModelError: the file is damaged, or not what the task expects.
        BackendError: nothing here can run it.
    """
    from edgetrt.engine import recipe as recipes

    recipe = recipes.for_pipeline(pipeline, base)
    return open_network(recipe, pipeline.backend, pipeline.threads, pipeline.depth)


def join(
    name: str,
    source: Callable[[], Source],
    network: Callable[[], Network],
    sinks: Sequence[Sink] = (),
    rate_hz: float | None = None,
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
        rate_hz=rate_hz,
    )
