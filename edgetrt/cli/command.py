"""`edgetrt command`: ask a device for something over MQTT, and wait for its answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgetrt import wire

_SLACK_S = 10.0
"""Beside the command's own deadline: the way there and back."""

_CONNECT_S = 10.0


def command(
    device: Annotated[str, typer.Argument(help="Name of the device.")],
    name: Annotated[str, typer.Argument(metavar="COMMAND", help="ping, doctor, snapshot, logs …")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="pipeline=street …")
    ] = None,
    broker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the broker is.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="agent.yaml whose `broker` is used, with its login.")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds to wait; default: as it may take.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where a snapshot's picture goes.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the reply as it came.")] = False,
) -> None:
    """Let a device do one of its commands; exits with 1 when it refuses or fails."""
    import asyncio

    from edgetrt.cli import output as console
    from edgetrt.errors import CommandError

    message = _message(name, arguments or [])
    limit_s = wait if wait is not None else _deadline_s(name) + _SLACK_S
    reply = asyncio.run(_exchange(named_broker(broker, config), device, message, limit_s))
    picture = reply.result.pop("data", None) if output is not None else None
    if output is not None and isinstance(picture, str):
        _save(output, picture)
    if json:
        console.print_json(reply)
    if not reply.ok:
        raise CommandError(f"{device}: {reply.error}", reply.hint, reply.code)
    if not json:
        _show(reply.result)


def _message(name: str, arguments: list[str]) -> wire.CommandMessage:
    """The command in the contract's words.

    Raises:
        ConfigError: an argument that is not KEY=VALUE.
    """
    import getpass
    import uuid

    import msgspec

    from edgetrt import wire
    from edgetrt.errors import ConfigError

    found: dict[str, Any] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r}: expected KEY=VALUE", "For example pipeline=street.")
        try:
            found[key] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[key] = value
    try:
        by = getpass.getuser()
    except (KeyError, OSError):  # no such user
        by = ""
    return wire.CommandMessage(id=uuid.uuid4().hex, command=name, arguments=found, by=by[:200])


def _deadline_s(name: str) -> float:
    from edgetrt.agent.commands import TABLE

    return TABLE[name].deadline_s if name in TABLE else _SLACK_S


def named_broker(broker: str | None, config: Path | None) -> Any:
    """Where the broker is and who we are to it, from the command line; else the one of this machine."""
    from edgetrt import app, document
    from edgetrt import config as configs

    if broker is not None:
        return configs.broker(broker)
    if config is not None:
        return app.broker_of(document.load(config, configs.DeviceConfig), config)
    return configs.BrokerConfig(spread_s=0.0)


async def _exchange(
    broker: Any, device: str, message: wire.CommandMessage, limit_s: float
) -> wire.ReplyMessage:
    """Publish a command and wait for its reply.

    Raises:
        TransportError: there is no broker, nobody takes the command, or no reply comes.
    """
    import asyncio
    import secrets

    from edgetrt import wire
    from edgetrt.errors import NotConnectedError, TransportError
    from edgetrt.mqtt import MqttTransport, Settings
    from edgetrt.types import Exchange

    answer_to = wire.reply(device, message.id)
    told = Exchange(answer_to, secrets.token_bytes(16))
    settings = Settings(session_expiry_s=0)
    transport = MqttTransport(
        broker, f"edgetrt-{message.id}", subscriptions=(answer_to,), settings=settings
    )
    async with transport:
        try:
            await transport.reach(min(_CONNECT_S, limit_s))
        except NotConnectedError as error:
            raise NotConnectedError(
                f"{device}: nothing was asked: {error.message}",
                "Another broker: --broker HOST:PORT, or --config with its agent.yaml.",
            ) from error
        expiry_s = max(1, round(limit_s))
        topic, body = wire.cmd(device), wire.encode(message)
        await transport.publish(topic, body, expiry_s=expiry_s, exchange=told)
        try:
            return await asyncio.wait_for(_reply(transport, told.correlation), limit_s)
        except asyncio.TimeoutError:
            raise TransportError(
                f"{device}: no reply to {message.command} within {limit_s:g} s",
                f"Is it there? mosquitto_sub -t {wire.status(device)} -C 1",
            ) from None


async def _reply(transport: Any, correlation: bytes) -> wire.ReplyMessage:
    from edgetrt import wire
    from edgetrt.errors import TransportError

    async for message in transport.messages():
        if message.exchange.correlation == correlation:
            return wire.decode(wire.ReplyMessage, message.payload)
    raise TransportError("the connection ended")


def _save(path: Path, data: str) -> None:
    import base64
    import binascii

    from edgetrt.errors import ConfigError, MessageError

    try:
        path.write_bytes(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise MessageError(f"the picture is no base64: {error}") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}", "Name another file."
        ) from error


def _show(result: dict[str, Any]) -> None:
    """Print a result for people: log lines as they are, a picture as a word about it."""
    from edgetrt.cli import output as console

    lines, data = result.get("lines"), result.get("data")
    if isinstance(lines, list):
        for line in lines:
            typer.echo(line)
    elif isinstance(data, str):
        console.print_json({**result, "data": f"{len(data)} characters; save them with -o"})
    else:
        console.print_json(result)
