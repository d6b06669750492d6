"""The device's files: made, checked against each other and the broker, then put in place at once.

Each certificate has a folder of its own below `tls/`, named by its content. Nothing that is in use
is written over: the config file, replaced last, leads from one folder to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import os
import pwd
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgetrt import document
from edgetrt.agent.identity import identify
from edgetrt.config import CREDENTIAL, BrokerConfig, DeviceConfig, address
from edgetrt.errors import ConfigError
from edgetrt.mqtt.probing import Answer, probe
from edgetrt.provision import credentials
from edgetrt.provision.credentials import Identity
from edgetrt.provision.section import replaced
from edgetrt.update import durable

SERVICE_USER = "edgetrt"
TLS_PORT = 8883
_OURS = ("host", "port", "tls", "ca_file", "cert_file", "key_file")
_LOGIN = ("username", "password_file")
_FOLDER = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Requested:
    """A request for the site's CA to sign."""

    device: str
    request: Path
    key: Path
    pem: str


@dataclass(frozen=True)
class Provisioned:
    """What was written, and what the broker said before it was.

    Attributes:
        device: its name.
        config: the file that leads to all of it.
        previous: that file as it was; None when there was none.
        folder: where key and certificates are.
        certificate: the device's; None when it has none and logs in otherwise.
        broker: what the broker said.
    """

    device: str
    config: Path
    previous: Path | None
    folder: Path
    certificate: Identity | None
    broker: Answer


def request(config: Path, device: str | None = None) -> Requested:
    """Make a key on this device, and a request with its name; the same key until it was used.

    Raises:
        ConfigError: no usable name, or the files cannot be written.
    """
    credentials.ready()
    _, name = _known(config, device)
    folder = config.parent / "tls"
    key, path = folder / f"{name}.key", folder / f"{name}.csr"
    with _writing(folder):
        _open_folder(folder)
        if not key.exists():
            durable.replace(key, credentials.new_key())
        _own(key)
        pem = credentials.new_request(key.read_bytes(), name)
        durable.replace(path, pem, mode=0o644)
    return Requested(name, path, key, pem.decode())


def token(path: Path) -> None:
    """Check a one-time token; there is no service yet that would take it.

    Raises:
        ConfigError: always: what is wrong with the file, or that nobody takes it.
    """
    _private(path)
    if not _read(path).strip():
        raise ConfigError(f"{path}: the token is empty", "It is one line, as it was given to you.")
    raise ConfigError(
        f"{path}: a token is exchanged by the fleet's enrolment service, which this release cannot "
        "talk to",
        "Make a request with --csr, have it signed, and come back with --cert.",
    )


def provision(
    config: Path,
    broker: str,
    ca: Path,
    cert: Path | None = None,
    key: Path | None = None,
    device: str | None = None,
) -> Provisioned:
    """Check everything, ask the broker, and only then write.

    Args:
        config: agent.yaml, which need not be there yet.
        broker: `HOST` or `HOST:PORT`.
        ca: who signs for the site.
        cert: the device's certificate.
        key: its key; None = the one that `request` made, or the one in use.
        device: its name; None = as configured, as requested, or made from the host's.

    Raises:
        ConfigError: a file is wrong, or does not belong to the others.
        TransportError: the broker cannot be reached, is not trusted, or refuses us.
    """
    credentials.ready()
    written, name = _known(config, device)
    host, port = address(broker, "--broker")
    port = port if re.search(r":\d+\Z", broker) else TLS_PORT
    authority = _read(ca)
    credentials.check_authority(authority, str(ca))
    files, identity = {"ca.crt": authority}, None
    if cert is not None:
        pem, requested = _read(cert), config.parent / "tls" / f"{name}.key"
        key_pem, key_path = _key_for(pem, key, requested, config, written)
        names = str(cert), str(key_path), str(ca)
        now = dt.datetime.now(dt.timezone.utc)
        identity = credentials.check(pem, key_pem, authority, name, now, names)
        files |= {"device.crt": pem, "device.key": key_pem}
    with _staged(config.parent / "tls", files) as (staged, final):
        wanted = _section(written, config, host, port, Path("tls") / final.name, files)
        answer = asyncio.run(probe(_absolute(wanted, config, final, staged), name))
        text = replaced(_text(config), config, _changes(wanted, name, written, device))
        with _writing(config):
            previous = _place(config, text, staged, final)
    _forget_old(config, previous)
    requested = config.parent / "tls" / f"{name}.key"
    if cert is not None and key is None and key_path == requested:
        durable.remove(requested)
    return Provisioned(name, config, previous, final, identity, answer)


def _known(config: Path, device: str | None) -> tuple[DeviceConfig, str]:
    """The config as it is, and the device's name."""
    written = document.load(config, DeviceConfig) if config.exists() else DeviceConfig()
    if device is None:
        asked = [] if written.device else sorted((config.parent / "tls").glob("*.key"))
        return written, asked[0].stem if len(asked) == 1 else identify(written, 0).device
    return document.override(written, {"device": device}), device


def _key_for(
    cert: bytes, key: Path | None, requested: Path, config: Path, written: DeviceConfig
) -> tuple[bytes, Path]:
    """The key that was named, or of those that are here the one of the certificate."""
    if key is not None:
        _private(key)
        return _read(key), key
    used = written.broker.key_file
    candidates = [requested] if requested.exists() else []
    if used and not used.startswith(CREDENTIAL):
        candidates.append(document.beside(config, used))
    for path in candidates:
        if credentials.belongs(cert, _read(path)):
            return _read(path), path
    if not candidates:
        raise ConfigError(
            "--cert: there is no key of this device for it",
            "Name its key with --key, or make one here with --csr and have that signed.",
        )
    return _read(candidates[0]), candidates[0]


def _private(path: Path) -> None:
    """Refuse a secret that others can read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check the path.") from error
    if mode & 0o077:
        raise ConfigError(
            f"{path}: can be read by others (mode {mode & 0o777:03o}), expected 600",
            f"If nobody has: chmod 600 {path}. Otherwise make a new one.",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", "Check the path, or run it with sudo."
        ) from error


def _text(config: Path) -> str:
    return config.read_text(encoding="utf-8") if config.exists() else ""


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path}: cannot be written: {error.strerror}",
            "Run it with sudo, or name another file with --config.",
        ) from error


@contextlib.contextmanager
def _staged(folder: Path, files: dict[str, bytes]) -> Iterator[tuple[Path, Path]]:
    """Write files beside their place; what is still there at the end is removed."""
    digest = hashlib.sha256(b"\0".join(files[name] for name in sorted(files))).hexdigest()
    with _writing(folder):
        _open_folder(folder)
        durable.sweep(folder)
        staged = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    try:
        with _writing(staged):
            staged.chmod(0o755)
            for name, data in files.items():
                durable.replace(staged / name, data, 0o600 if name.endswith(".key") else 0o644)
                _own(staged / name)
        yield staged, folder / digest[:12]
    finally:
        durable.remove(staged)


def _open_folder(folder: Path) -> None:
    """Make a folder that the services can enter, whatever root's umask says."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o755)


def _own(path: Path) -> None:
    """Give a file to the services' user, when we may and there is one."""
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(SERVICE_USER)
            os.chown(path, user.pw_uid, user.pw_gid)


def _section(
    written: DeviceConfig, config: Path, host: str, port: int, tls: Path, files: dict[str, bytes]
) -> dict[str, Any]:
    """The new `broker` section: ours, and what else stood there."""
    before: dict[str, Any] = {}
    if config.exists():
        before = document.parse(config).data.get("broker") or {}
    gone = (*_OURS, *_LOGIN) if "device.crt" in files else _OURS
    ours: dict[str, Any] = {"host": host, "port": port, "ca_file": str(tls / "ca.crt")}
    if "device.crt" in files:
        ours |= {"cert_file": str(tls / "device.crt"), "key_file": str(tls / "device.key")}
    return {**ours, **{name: value for name, value in before.items() if name not in gone}}


def _absolute(section: dict[str, Any], config: Path, final: Path, staged: Path) -> BrokerConfig:
    """The section as the broker is asked with it: with the files that are not in place yet."""
    broker = msgspec.convert(section, BrokerConfig)
    paths = {
        name: str(document.beside(config, value)).replace(
            str(final.resolve()), str(staged.resolve())
        )
        for name in ("ca_file", "cert_file", "key_file", "password_file")
        if (value := getattr(broker, name)) and not value.startswith(CREDENTIAL)
    }
    return msgspec.structs.replace(broker, **paths)


def _changes(
    section: dict[str, Any], name: str, written: DeviceConfig, asked: str | None
) -> dict[str, Any]:
    """What changes in the file: the section, and the name when it was not written there."""
    said = asked is not None or written.device is None
    return {"device": name, "broker": section} if said else {"broker": section}


def _place(config: Path, text: str, staged: Path, final: Path) -> Path | None:
    """Put the files in place, and replace the config last; returns where the one before is."""
    if not final.is_dir():  # named by its content: what is there is the same, and may be in use
        staged.rename(final)
        durable.flush(final.parent)
    mode, previous, owner = 0o644, None, config.stat() if config.exists() else None
    with tempfile.NamedTemporaryFile(dir=config.parent, suffix=".yaml") as trial:
        trial.write(text.encode())
        trial.flush()
        document.load(Path(trial.name), DeviceConfig)
    if config.exists():
        mode, previous = config.stat().st_mode & 0o777, config.with_name(config.name + ".previous")
        durable.replace(previous, config.read_bytes(), mode)
    durable.replace(config, text.encode(), mode)
    if owner is not None and os.geteuid() == 0:  # a file of the agent's group stays readable for it
        for path in (config, config.with_name(config.name + ".previous")):
            os.chown(path, owner.st_uid, owner.st_gid)
    return previous


def _forget_old(config: Path, previous: Path | None) -> None:
    """Remove keys that neither this config nor the one before leads to."""
    folder = config.parent / "tls"
    kept = _text(config) + ("" if previous is None else _text(previous))
    with _writing(folder):
        for old in folder.iterdir():
            if _FOLDER.fullmatch(old.name) and old.name not in kept:
                durable.remove(old)
