"""hawkBit's Direct Device Integration API, the device's half: addresses, messages, tokens.

As its OpenAPI page and its server's own classes tell it (https://eclipse.dev/hawkbit/rest-api/ddi/).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from edgetrt.errors import ConfigError, UnreachableError, UpdateError
from edgetrt.update.fetch import Progress, Wanted, fetch
from edgetrt.update.origin import Reply
from edgetrt.update.web import WebOrigin

MOST_BYTES = 1 << 20
_LEAST_POLL_S, _POLL_S = 1.0, 300.0

Execution = Literal["closed", "proceeding", "canceled", "rejected", "downloaded"]
Finished = Literal["success", "failure", "none"]

_Message = TypeVar("_Message")


class Link(msgspec.Struct, frozen=True):
    """Where something is."""

    href: str


class Polling(msgspec.Struct, frozen=True):
    """How often to come, as `HH:MM:SS`."""

    sleep: str = ""


class Config(msgspec.Struct, frozen=True):
    """What the server says to every device."""

    polling: Polling = Polling()


class Work(msgspec.Struct, frozen=True):
    """What the server has for this device: links by name."""

    config: Config = Config()
    links: dict[str, Link] = msgspec.field(default_factory=dict, name="_links")

    @property
    def poll_s(self) -> float:
        """When to come again."""
        try:
            hours, minutes, seconds = map(int, self.config.polling.sleep.split(":"))
        except ValueError:
            return _POLL_S
        return max(_LEAST_POLL_S, hours * 3600.0 + minutes * 60.0 + seconds)


class Artifact(msgspec.Struct, frozen=True):
    """A file of an action; the server's digests protect the way, not the content."""

    filename: str
    hashes: dict[str, str | None] = {}
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    links: dict[str, Link] = msgspec.field(default_factory=dict, name="_links")


class Chunk(msgspec.Struct, frozen=True):
    """A software module."""

    artifacts: tuple[Artifact, ...] = ()


class Deployment(msgspec.Struct, frozen=True, rename={"window": "maintenanceWindow"}):
    """What to do, and how far: `skip`, `attempt` or `forced`."""

    chunks: tuple[Chunk, ...]
    download: str = "attempt"
    update: str = "attempt"
    window: str | None = None


class Action(msgspec.Struct, frozen=True):
    """An update that the server wants."""

    id: str
    deployment: Deployment


class _Stop(msgspec.Struct, frozen=True, rename="camel"):
    stop_id: str


class Cancel(msgspec.Struct, frozen=True, rename={"action": "cancelAction"}):
    """An update that the server no longer wants."""

    id: str
    action: _Stop


class Ddi:
    """One device at one server.

    Args:
        url: of the server, `https://host`.
        tenant: as there.
        controller: this device's id there.
        token: proves who it is; never sent to another server than this one.
        gateway: the token is one of all devices of a tenant.
        allow_http: take plain http from anywhere; the token can then be read on the way.
        ca_file: certificates to trust instead of the system's.
    """

    def __init__(
        self,
        url: str,
        tenant: str,
        controller: str,
        token: str,
        *,
        gateway: bool = False,
        allow_http: bool = False,
        ca_file: Path | None = None,
    ) -> None:
        kind = "GatewayToken" if gateway else "TargetToken"
        self._allow_http, self._ca_file = allow_http, ca_file
        self._server = WebOrigin(
            url,
            allow_http=allow_http,
            ca_file=ca_file,
            headers={"Authorization": f"{kind} {token}", "Accept": "*/*"},
        )
        self._url = f"{url.rstrip('/')}/{quote(tenant)}/controller/v1/{quote(controller)}"

    def work(self) -> Work:
        """Ask what there is to do; this is also the sign of life.

        Raises:
            UnreachableError: no answer.
            UpdateError: the server does not know this device, or says what is no DDI.
        """
        return self._get(self._url, Work)

    def action(self, link: Link) -> Action:
        """An update to do; raises as `work`."""
        return self._get(link.href, Action)

    def cancel(self, link: Link) -> str:
        """The id of the update that is not to be done; raises as `work`."""
        return self._get(link.href, Cancel).action.stop_id

    def download(self, artifact: Artifact, folder: Path, progress: Progress) -> Path:
        """Bring an artifact here, going on where it stopped.

        Raises:
            UpdateError: it did not come, or came other than announced.
        """
        link = artifact.links.get("download") or artifact.links.get("download-http")
        digest = artifact.hashes.get("sha256")
        if link is None or not digest:
            raise UpdateError(
                f"{artifact.filename}: announced without a link or without a sha256",
                "hawkBit tells both since 0.3; look at the server's version.",
                "not-found",
            )
        wanted = Wanted(link.href, digest.lower(), artifact.size)
        return fetch(wanted, [_At(self._origin_of(link.href))], folder, progress)

    def tell(
        self, link: str, id: str, execution: Execution, how: Finished, words: list[str]
    ) -> bool:
        """Give feedback on an action.

        Args:
            link: `deploymentBase` or `cancelAction`.
            id: of the action.
            execution: how far it is.
            how: how it ended.
            words: for a person.

        Returns:
            Whether the server still wants to hear of this action.

        Raises:
            UnreachableError: it was not heard; say it again.
        """
        status = {"execution": execution, "result": {"finished": how}, "details": words}
        body = msgspec.json.encode({"id": id, "status": status})
        where = f"{self._url}/{link}/{quote(id)}/feedback"
        code = self._server.send("POST", where, body)
        if code in (404, 410):
            return False
        _check(where, code)
        return True

    def describe(self, attributes: dict[str, str]) -> None:
        """Tell what this device is.

        Raises:
            UnreachableError: it was not heard.
        """
        where = f"{self._url}/configData"
        body = msgspec.json.encode({"mode": "merge", "data": attributes})
        _check(where, self._server.send("PUT", where, body))

    def _get(self, url: str, kind: type[_Message]) -> _Message:
        data = b""
        with self._server.open(url) as reply:
            _check(url, reply.status)
            for chunk in reply.chunks:
                data += chunk
                if len(data) > MOST_BYTES:
                    raise _strange(url, f"more than {MOST_BYTES} bytes")
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError as error:
            raise _strange(url, str(error)) from error

    def _origin_of(self, url: str) -> WebOrigin:
        """This server with its token; any other without."""
        here, there = urlsplit(self._url), urlsplit(url)
        if (here.scheme, here.netloc) == (there.scheme, there.netloc):
            return self._server
        base = f"{there.scheme}://{there.netloc}"
        return WebOrigin(base, allow_http=self._allow_http, ca_file=self._ca_file)


class _At:
    """An origin whose paths are whole addresses."""

    name = ""

    def __init__(self, web: WebOrigin) -> None:
        self._web = web

    def get(self, path: str, offset: int = 0) -> contextlib.AbstractContextManager[Reply]:
        """As `Origin.get`."""
        return self._web.open(path, offset)


def token(path: Path) -> str:
    """The token in a file that nobody else can read.

    Raises:
        ConfigError: it cannot be read, or others can read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no token can be read: {error}", "Check the path.") from error
    if mode & 0o027:
        raise ConfigError(
            f"{path}: mode {mode & 0o777:04o}, expected 0600 or 0640",
            "Others can read it: chmod 600.",
        )
    if not text or not text.isprintable():
        raise ConfigError(f"{path}: holds no token", "One line, as the server shows it.")
    return text


def _check(where: str, status: int) -> None:
    if 200 <= status < 300:
        return
    told = f"{where}: HTTP {status}"
    if status >= 500 or status in (408, 429):
        raise UnreachableError(told, "It is tried again.", "unreachable")
    if status in (401, 403):
        raise UpdateError(told, "Look at the token, the tenant and the device's id.", "login")
    raise UpdateError(told, "Is this device known to the server, and is it DDI v1?", "not-found")


def _strange(where: str, what: str) -> UpdateError:
    return UpdateError(
        f"{where}: no answer of hawkBit's DDI v1: {what}", "Is it hawkBit?", "answer"
    )
