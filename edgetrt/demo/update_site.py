"""Whoever makes releases, for the demo: keys, a repository, and a web server on loopback."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from edgetrt.demo import update_networks
from edgetrt.update import keys
from edgetrt.update.desired import Desired, sign
from edgetrt.update.repository import Repository

PIPELINE = "street"
_ROLES = ("root", "targets", "snapshot", "timestamp", "assignment")


@dataclass(frozen=True)
class Recipe:
    """What to put into a release.

    Attributes:
        version: of it.
        seed: of its network.
        slow: much slower than what was before, which it promises not to be.
        wrong: its golden answers are those of another network.
        fps_min: what it promises.
        prove_s: for how long it is watched.
    """

    version: str
    seed: int
    slow: bool = False
    wrong: bool = False
    fps_min: float = 8.0
    prove_s: float = 2.0


class Site:
    """A repository with its keys.

    Args:
        folder: an existing one, for all of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._keys = folder, folder / "keys"
        self.public = folder / "repository" / "public"
        made = {
            role: [keys.make(self._keys, f"{role}-{n}") for n in range(3 if role == "root" else 1)]
            for role in _ROLES
        }
        self._repository = Repository.create(folder / "repository", made, {"root": 2})
        keys.make(folder / "thief", "assignment-0")
        self._publish()

    @property
    def root(self) -> Path:
        """The first root metadata, which devices trust from the start."""
        return self.public / "metadata" / "1.root.json"

    def release(self, recipe: Recipe, change: Callable[[Path], None] = lambda _: None) -> str:
        """Make, sign and publish a release; returns its target path.

        Args:
            recipe: what to put into it.
            change: what its author does to the files before they are signed.
        """
        folder = self._folder / f"release-{recipe.version}"
        folder.mkdir()
        _write(folder, recipe)
        change(folder)
        target = self._repository.add(folder / "release.yaml")
        self._publish()
        return target

    def digest(self, target: str) -> str:
        """Digest of a release."""
        return str(self._found(target).hashes["sha256"])

    def stored(self, target: str) -> Path:
        """The file that the web server has of a release."""
        folder, _, name = target.rpartition("/")
        return self.public / "targets" / folder / f"{self.digest(target)}.{name}"

    def assign(self, device: str, target: str, generation: int, thief: bool = False) -> bytes:
        """Sign an assignment; a thief signs with a key of their own."""
        found = self._found(target)
        desired = Desired(
            device=device,
            generation=generation,
            target=target,
            sha256=found.hashes["sha256"],
            length=found.length,
            not_after=datetime.now(timezone.utc) + timedelta(hours=1),
        )
        folder = self._folder / "thief" if thief else self._keys
        return sign(desired, [keys.signer(str(folder / "assignment-0.pem"))])

    def _found(self, target: str) -> Any:
        return self._repository.load("targets").signed.targets[target]

    def _publish(self) -> None:
        signers = keys.folder_signers(self._keys)
        self._repository.sign(signers.values())
        self._repository.publish(signers)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A web server of a folder, on a free port of loopback; yields its address."""
    made = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _write(folder: Path, recipe: Recipe) -> None:
    """The files of a release, as its author would have them; JSON is YAML."""
    import numpy as np

    network = folder / "street.onnx"
    update_networks.detector(network, recipe.seed, recipe.slow)
    asked = network
    if recipe.wrong:
        asked = folder / "other.onnx"
        update_networks.detector(asked, recipe.seed + 1000)
    image = update_networks.picture(recipe.seed)
    np.savez(folder / "in.npz", images=image)
    np.savez(folder / "out.npz", output0=update_networks.answer(asked, image))
    pipeline = {
        "name": PIPELINE,
        "model": "recipe.yaml",
        "source": "",
        "backend": "onnxruntime",
        "threads": 1,
    }
    # How fast it is depends on the machine; twice as slow as before is worse on every one.
    worse = 100 if recipe.slow else None
    part = {
        "pipeline": "street.yaml",
        "golden": [{"input": "in.npz", "expected": "out.npz", "tolerance": 0.01}],
        "bands": {"fps_min": recipe.fps_min, "prove_s": recipe.prove_s, "worse_percent": worse},
    }
    release = {"name": PIPELINE, "version": recipe.version, "pipelines": [part]}
    (folder / "recipe.yaml").write_text(json.dumps({"model": "street.onnx", "precision": "fp32"}))
    (folder / "street.yaml").write_text(json.dumps(pipeline))
    (folder / "release.yaml").write_text(json.dumps(release))
