"""What this machine has and what it lacks, each lack with its remedy."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import shutil
import ssl
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from edgetrt import __version__, app
from edgetrt.backends.choose import available
from edgetrt.boards import generic, jetson
from edgetrt.config import CREDENTIAL
from edgetrt.errors import ConfigError, TransportError
from edgetrt.runtime import imaging
from edgetrt.sources.gstreamer_library import APT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgetrt.config import BrokerConfig
    from edgetrt.types import DeviceIdentity


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what it is.
        state: `ok`, `absent` (edgetrt works without it) or `problem`.
        value: what was found.
        fix: what to do about a lack; empty when there is none.
    """

    name: str
    state: Literal["ok", "absent", "problem"]
    value: str
    fix: str = ""


def examine(broker: BrokerConfig, *, configured: bool = False) -> tuple[Finding, ...]:
    """Look at everything; touches nothing and needs no rights.

    Args:
        broker: which one, its files resolved, and who we are to it.
        configured: this device's own config says so, and not a guess.
    """
    board = jetson.identify()
    return (
        Finding("edgetrt", "ok", f"{__version__} on Python {platform.python_version()}"),
        Finding("python", "ok", sys.executable),
        _board(board),
        _tensorrt(is_jetson=board is not None),
        *_backends(is_jetson=board is not None),
        _resize(),
        _video(),
        _gstreamer(is_jetson=board is not None),
        _mosquitto(),
        _broker(broker, configured=configured),
        *_secrets(broker),
    )


def _board(board: DeviceIdentity | None) -> Finding:
    if board is None:
        other = generic.identify()
        return Finding(
            "board", "absent", f"no Jetson: {other.model}", "Everything but TensorRT works here."
        )
    details = ", ".join(
        part
        for part in (
            board.part_number,
            board.soc,
            board.l4t and f"L4T {board.l4t}",
            board.compute_capability and f"compute capability {board.compute_capability}",
        )
        if part
    )
    return Finding("board", "ok", f"{board.model} ({details})")


def _backends(*, is_jetson: bool) -> Iterator[Finding]:
    found = available(app.backends())
    for entry in found:
        if entry.backend is not None:
            yield Finding(f"backend {entry.name}", "ok", entry.version)
        else:
            missed = is_jetson and entry.name == "tensorrt"
            yield Finding(
                f"backend {entry.name}", "problem" if missed else "absent", entry.reason, entry.hint
            )
    if not any(entry.backend for entry in found):
        yield Finding("backends", "problem", "none works", "Install one: pip install onnxruntime")


def _tensorrt(*, is_jetson: bool) -> Finding:
    """TensorRT for building, with the fix for each way it is known to be broken."""
    from edgetrt.backends.tensorrt_api import probe

    found = probe()
    if found.library is not None:
        return Finding("TensorRT", "ok", f"{found.library.flavour} {found.library.version}")
    return Finding("TensorRT", "problem" if is_jetson else "absent", found.problem, found.fix)


def _resize() -> Finding:
    if imaging.resizer() == "opencv":
        return Finding("image resize", "ok", "OpenCV")
    return Finding(
        "image resize",
        "absent",
        "Pillow, several times slower than OpenCV",
        "sudo apt-get install python3-opencv, or pip install 'edgetrt[opencv]'",
    )


def _video() -> Finding:
    if find_spec("av") is None:
        return Finding("video files and RTSP", "problem", "PyAV is missing", "pip install av")
    try:
        import av
    except ImportError as error:
        value = f"PyAV cannot be loaded: {error}"
        return Finding("video files and RTSP", "problem", value, "pip install --force-reinstall av")

    return Finding("video files and RTSP", "ok", f"PyAV {av.__version__}")


def _gstreamer(*, is_jetson: bool) -> Finding:
    if (path := shutil.which("gst-launch-1.0")) is not None:
        return Finding("GStreamer", "ok", path)
    return Finding(
        "GStreamer",
        "problem" if is_jetson else "absent",
        "not installed; cameras on a Jetson need it",
        f"sudo apt-get install {APT}",
    )


def _mosquitto() -> Finding:
    path = shutil.which("mosquitto", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
    if path is not None:
        return Finding("mosquitto", "ok", path)
    return Finding(
        "mosquitto",
        "absent",
        "not installed; needed here only for the demo",
        "sudo apt-get install mosquitto",
    )


def _broker(broker: BrokerConfig, *, configured: bool) -> Finding:
    """Log in as the agent does, under a name of our own, and leave."""
    from edgetrt.mqtt.probing import probe
    from edgetrt.mqtt.settings import Settings

    where = f"{broker.host}:{broker.port}"
    if _has_credentials(broker) and "CREDENTIALS_DIRECTORY" not in os.environ:
        fix = "Ask the agent, which has them: edgetrt command DEVICE doctor."
        return Finding("broker", "absent", f"{where}: its secrets are the service's own", fix)
    settings = Settings(
        connect_timeout_s=2.0, connack_timeout_s=5.0, session_expiry_s=0, will_delay_s=0
    )
    try:
        answer = asyncio.run(probe(broker, f"edgetrt-doctor-{secrets.token_hex(4)}", settings))
    except (ConfigError, TransportError) as error:
        return _no_broker(where, error, configured=configured)
    login = repr(broker.username) if broker.username else "this device"
    tls = f", {answer.tls}" if answer.tls else ""
    return Finding("broker", "ok", f"{answer.where} lets {login} in{tls}")


def _no_broker(where: str, error: ConfigError | TransportError, *, configured: bool) -> Finding:
    cause = error.__cause__
    if isinstance(cause, PermissionError):
        fix = "As root: sudo edgetrt doctor --config …"
        return Finding("broker", "absent", f"{where}: {error.message}", fix)
    told = error.message.removeprefix("broker ")
    away = isinstance(error, TransportError) and isinstance(cause, OSError)
    if away and not isinstance(cause, ssl.SSLError):  # the agent keeps what waits for it
        fix = "Start one, or name yours with --broker HOST:PORT or in agent.yaml (`broker: {host: …}`)."
        return Finding("broker", "absent", told, fix)
    fix = error.hint if configured else f"Name its login: --config agent.yaml. {error.hint}".strip()
    state: Literal["absent", "problem"] = "problem" if configured else "absent"
    return Finding("broker", state, told, fix)


def _has_credentials(broker: BrokerConfig) -> bool:
    files = (broker.password_file, broker.ca_file, broker.cert_file, broker.key_file)
    return any(file is not None and file.startswith(CREDENTIAL) for file in files)


def _secrets(broker: BrokerConfig) -> Iterator[Finding]:
    from edgetrt.mqtt.places import open_to_all

    for told in open_to_all(broker):
        fix = "chmod 600 it, and take another secret if somebody could have read it."
        yield Finding("secret", "problem", told, fix)
