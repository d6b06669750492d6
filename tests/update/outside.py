"""An agent that walks updates in a thread while other updaters hand it bundles; and a small hawkBit."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetrt.update import bundle
from edgetrt.update.desired import Policy
from tests.update.device import DEVICE, Device, Site

TENANT, TOKEN = "DEFAULT", "5d8fSD54fdsFG98DDsa"


class Shop:
    """A site and bundles of its releases."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, Site(folder / "site")
        self.root = self.site.repository.first_root()

    def bundle(
        self,
        version: str,
        generation: int,
        *,
        device: str = DEVICE,
        policy: Policy | None = None,
        needs: str = "{}",
    ) -> Path:
        path = self.folder / f"{version}-{device}.edgetrt"
        target = self.site.release(version, version.encode() * 1000, needs)
        envelope = self.site.assign(target, generation, device=device, policy=policy)
        bundle.write(self.site.repository, target, [envelope], path)
        return path


@contextmanager
def agent(folder: Path, root: bytes, *, good: bool = True) -> Iterator[None]:
    """Walk the updates of a folder, as the agent does, until the block ends."""
    stop = threading.Event()

    def walk() -> None:
        device = Device(folder, root, good=good)
        while not stop.wait(0.01):
            device.machine.step()

    thread = threading.Thread(target=walk)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass
class Server:
    """What a hawkBit server knows of one target, as its DDI tells it.

    Attributes:
        url: of it.
        action: the active action: its id, its files, how far it is wanted.
        canceling: the operator wants it canceled.
        told: every feedback: address, execution, result, words.
        attributes: of the target; None = they are asked for.
        asked: every request: method, path, Range, Authorization.
        broken: answer every request with this status.
    """

    url: str = ""
    action: str = ""
    files: list[Path] = field(default_factory=list)
    download: str = "forced"
    update: str = "forced"
    window: str | None = None
    canceling: bool = False
    told: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    status: str = "running"
    attributes: dict[str, str] | None = None
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    broken: int = 0
    lie: bytes = b""
    cut_at: int | None = None

    @property
    def base(self) -> str:
        return f"{self.url}/{TENANT}/controller/v1/{DEVICE}"

    def assign(self, action: str, *files: Path) -> None:
        self.action, self.files, self.status = action, list(files), "running"
        self.canceling = False

    def work(self) -> dict[str, Any]:
        links: dict[str, Any] = {}
        if self.status == "running" and self.action:
            kind = "cancelAction" if self.canceling else "deploymentBase"
            mark = "" if self.canceling else "?c=-2127183556"
            links[kind] = {"href": f"{self.base}/{kind}/{self.action}{mark}"}
        if self.attributes is None:
            links["configData"] = {"href": f"{self.base}/configData"}
        return {"config": {"polling": {"sleep": "00:00:30"}}, "_links": links}

    def deployment(self) -> dict[str, Any]:
        told = {"download": self.download, "update": self.update}
        if self.window is not None:
            told["maintenanceWindow"] = self.window
        chunk = {
            "part": "bApp",
            "version": "1",
            "name": "street",
            "artifacts": [self._artifact(path) for path in self.files],
        }
        return {"id": self.action, "deployment": {**told, "chunks": [chunk]}}

    def _artifact(self, path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        href = f"{self.url}/{TENANT}/controller/v1/{DEVICE}/softwaremodules/7/artifacts/{path.name}"
        return {
            "filename": path.name,
            "hashes": {"sha1": "0" * 40, "sha256": hashlib.sha256(data).hexdigest()},
            "size": len(data),
            "_links": {"download-http": {"href": href}},
        }

    def feedback(self, path: str, said: dict[str, Any]) -> int:
        """As hawkBit's own controller maps it to an action's status."""
        kind, action = path.split("/")[-3:-1]
        status = said["status"]
        execution, finished = status["execution"], status["result"]["finished"]
        if action != self.action or self.status != "running":
            return 410
        self.told.append((kind, execution, finished, status["details"]))
        if kind == "cancelAction":
            if execution == "rejected":
                self.canceling = False
            elif execution == "closed":
                self.status = "error" if finished == "failure" else "canceled"
        elif execution == "closed":
            self.status = "error" if finished == "failure" else "finished"
        return 200


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    @property
    def known(self) -> Server:
        return self.server.known  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        if self._refused():
            return
        path = self.path.partition("?")[0]
        if path.endswith(f"/controller/v1/{DEVICE}"):
            self._json(self.known.work())
        elif "/deploymentBase/" in path:
            self._json(self.known.deployment())
        elif "/cancelAction/" in path:
            action = self.known.action
            self._json({"id": action, "cancelAction": {"stopId": action}})
        else:
            self._file(next(one for one in self.known.files if path.endswith(one.name)))

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._refused():
            self._done(self.known.feedback(self.path, said))

    def do_PUT(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._refused():
            self.known.attributes = said["data"]
            self._done(200)

    def _refused(self) -> bool:
        known, login = self.known, self.headers.get("Authorization", "")
        known.asked.append((self.command, self.path, self.headers.get("Range", ""), login))
        code = known.broken or (0 if login == f"TargetToken {TOKEN}" else 401)
        if code:
            self._done(code)
        return bool(code)

    def _json(self, told: dict[str, Any]) -> None:
        self._send(200, json.dumps(told).encode())

    def _done(self, code: int) -> None:
        self._send(code, b"")

    def _file(self, path: Path) -> None:
        data = self.known.lie or path.read_bytes()
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin : self.known.cut_at])
        if self.known.cut_at is not None:
            self.known.cut_at = None
            self.close_connection = True

    def _send(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/hal+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def hawkbit_server() -> Iterator[Server]:
    known = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.known = known  # type: ignore[attr-defined]
        known.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()
