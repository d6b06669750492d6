"""Health for Prometheus: text format 0.0.4 on loopback, over the least HTTP that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from edgetrt.agent.verdict import STATES
from edgetrt.types import BoardState
from edgetrt.wire import HealthMessage, PipelineReport

_log = logging.getLogger(__name__)

_REQUEST_BYTES = 8192
_REQUEST_S = 5.0

Sample = tuple[str, dict[str, str], float | None]


def render(health: HealthMessage, connected: bool) -> str:
    """Every number of a health message; what is not known is left out."""
    lines: list[str] = []
    seen: set[str] = set()
    for name, labels, value in sorted(_samples(health, connected), key=lambda sample: sample[0]):
        if value is None:
            continue
        if name not in seen:
            seen.add(name)
            lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{told}}} {value:.15g}" if told else f"{name} {value:.15g}")
    return "\n".join(lines) + "\n"


def _samples(health: HealthMessage, connected: bool) -> Iterator[Sample]:
    yield "edgetrt_info", {"device": health.device, "version": health.version}, 1
    yield "edgetrt_state", {}, STATES.index(health.state) if health.state in STATES else None
    yield "edgetrt_connected", {}, int(connected)
    for reason in health.reasons:
        yield "edgetrt_reason", {"code": reason.code, "about": reason.about}, 1
    agent, outbox, machine = health.agent, health.outbox, health.machine
    yield "edgetrt_agent_resident_bytes", {}, agent.rss_bytes
    for name in ("received", "published", "limited", "unsent", "malformed", "link_dropped"):
        yield f"edgetrt_results_{name}_total", {}, getattr(agent, name)
    yield "edgetrt_results_pending", {}, agent.pending
    yield "edgetrt_reconnects_total", {}, agent.reconnects
    for name, rows in outbox.rows.items():
        yield "edgetrt_outbox_messages", {"class": name}, rows
        yield "edgetrt_outbox_bytes", {"class": name}, outbox.bytes.get(name)
        yield "edgetrt_outbox_dropped_total", {"class": name}, outbox.dropped.get(name)
    for name in ("memory_total", "memory_available", "disk_total", "disk_free"):
        # `_total` is the ending of counters.
        told = name.replace("_total", "_size")
        yield f"edgetrt_machine_{told}_bytes", {}, getattr(machine, name)
    yield from _board(health.board)
    for report in health.pipelines:
        yield from _pipeline(report)


def _board(board: BoardState) -> Iterator[Sample]:
    if board.power_mode is not None:
        yield "edgetrt_board_info", {"power_mode": board.power_mode}, 1
    for zone, value_c in board.temperatures_c.items():
        yield "edgetrt_board_temperature_celsius", {"zone": zone}, value_c
    yield "edgetrt_board_headroom_celsius", {}, board.headroom_c
    yield "edgetrt_board_overcurrents_total", {}, board.overcurrents


def _pipeline(report: PipelineReport) -> Iterator[Sample]:
    label = {"pipeline": report.pipeline}
    engine = {**label, "engine": report.engine, "backend": report.backend, "state": report.state}
    yield "edgetrt_pipeline_info", engine, 1
    yield "edgetrt_pipeline_rate_hz", label, report.fps
    yield "edgetrt_pipeline_report_age_seconds", label, report.age_s
    yield "edgetrt_pipeline_objects", label, report.objects
    if report.latency is not None:
        for quantile, value_ms in (("0.5", report.latency.p50_ms), ("0.99", report.latency.p99_ms)):
            seconds = value_ms / 1e3
            yield "edgetrt_pipeline_latency_seconds", {**label, "quantile": quantile}, seconds
    for name in (
        "read",
        "done",
        "dropped",
        "refused",
        "missed",
        "unsent",
        "restarts",
        "reconnects",
    ):
        yield f"edgetrt_pipeline_{name}_total", label, getattr(report.counters, name)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


async def serve(port: int, page: Callable[[], str]) -> None:
    """Answer `GET /metrics` on loopback until cancelled; a port that is taken is told, once."""
    try:
        server = await asyncio.start_server(
            lambda reader, writer: _answer(reader, writer, page),
            "127.0.0.1",
            port,
            limit=_REQUEST_BYTES,
        )
    except OSError as error:
        _log.warning("metrics: port %d cannot be used: %s", port, error.strerror)
        await asyncio.Event().wait()
        return
    try:
        await asyncio.Event().wait()
    finally:
        server.close()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, page: Callable[[], str]
) -> None:
    """One request, one answer, closed."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_S)
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", b""
        elif path != b"/metrics":
            status, body = "404 Not Found", b""
        else:
            status, body = "200 OK", page().encode()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + (body if method != b"HEAD" else b"")
        )
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
        pass  # not HTTP, too slow, or gone
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
