"""What an update costs before anything is built: verifying it, and fetching it beside curl."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from edgetrt.update import keys
from edgetrt.update.clock import SystemWallClock
from edgetrt.update.desired import Desired, sign, verify
from edgetrt.update.fetch import Wanted, fetch
from edgetrt.update.origin import Origin
from edgetrt.update.repository import Repository
from edgetrt.update.trust import Trust
from edgetrt.update.web import WebOrigin
from scripts.benchmarks.figures import Figure, paired_ratio, report
from scripts.benchmarks.over_broker import broker_figures

ROLES = ("root", "targets", "snapshot", "timestamp", "assignment")
PIECE = 1 << 16


class Server(http.server.SimpleHTTPRequestHandler):
    """A file server that sends no faster than a link would; 0 = as fast as it can."""

    rate = 0.0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def copyfile(self, source: object, outputfile: object) -> None:
        """Send in pieces, at the rate."""
        begun, sent = time.perf_counter(), 0
        while piece := source.read(PIECE):  # type: ignore[attr-defined]
            outputfile.write(piece)  # type: ignore[attr-defined]
            sent += len(piece)
            if self.rate:
                time.sleep(max(0.0, sent / self.rate - (time.perf_counter() - begun)))


@contextmanager
def serving(folder: Path, rate: float) -> Iterator[str]:
    """A web server of that folder in a thread; yields its address."""
    handler = partial(type("Paced", (Server,), {"rate": rate}), directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def main() -> int:
    """Measure and print; the exit code says whether every goal is met."""
    parser = argparse.ArgumentParser(prog="scripts/bench update", description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--link-mbit", type=float, default=400.0, help="of the paced download")
    parser.add_argument("--json", action="store_true")
    wishes = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = [
            *verify_figures(folder, wishes.runs),
            *fetch_figures(folder, wishes.megabytes, wishes.runs, wishes.link_mbit),
        ]
    context = {"runs": wishes.runs, "megabytes": wishes.megabytes, "link_mbit": wishes.link_mbit}
    return report("update", figures, context, as_json=wishes.json)


def verify_figures(folder: Path, runs: int) -> Iterator[Figure]:
    """Metadata from a server on this machine, and an envelope; unchanged and changed metadata."""
    made = {role: [keys.make(folder / "keys", role)] for role in ROLES}
    repository = Repository.create(folder / "repository", made, {})
    signers = keys.folder_signers(folder / "keys")
    repository.sign(signers.values())
    repository.publish(signers)
    envelope = sign(_desired(), [keys.signer(str(folder / "keys/assignment.pem"))])
    trust = Trust(folder / "trust", repository.first_root(), SystemWallClock(trusted=True))
    with serving(repository.folder / "public", 0) as url:

        def once() -> float:
            begun = time.perf_counter()
            origins = (WebOrigin(f"{url}/metadata"), WebOrigin(f"{url}/targets"))
            known = trust.refresh(*origins).keys
            verify(envelope, known, "bench", datetime.now(timezone.utc))
            return (time.perf_counter() - begun) * 1e3

        first = once()
        same = statistics.median(once() for _ in range(runs))
        changed = []
        for _ in range(runs):
            repository.publish(signers)
            changed.append(once())
    yield Figure("verify_ms", same, "ms", 50, note="nothing new: 2 requests, 4 roles, 1 envelope")
    yield Figure(
        "verify_new_ms",
        statistics.median(changed),
        "ms",
        50,
        note="new snapshot and timestamp, flushed to the disk",
    )
    yield Figure("verify_first_ms", first, "ms", note="the first of all")


def _desired() -> Desired:
    return Desired(
        device="bench",
        generation=1,
        target="releases/x.tar",
        sha256="0" * 64,
        length=1,
        not_after=datetime.now(timezone.utc) + timedelta(days=1),
    )


def fetch_figures(folder: Path, megabytes: int, runs: int, link_mbit: float) -> Iterator[Figure]:
    """Ours and curl in turn: paced like a link, and as fast as this machine can; then the broker."""
    data = bytes(range(256)) * (megabytes * 4096)
    site = folder / "site/targets"
    site.mkdir(parents=True)
    (site / "file").write_bytes(data)
    wanted = Wanted("file", hashlib.sha256(data).hexdigest(), len(data))
    yield from _beside_curl(folder, site, wanted, runs, link_mbit)

    def once(origin: Origin) -> float:
        return _ours(origin, wanted, folder / "ours")

    with serving(site, 0.0) as url:
        yield from broker_figures(folder, site.parent, once, WebOrigin(url), runs)


def _beside_curl(
    folder: Path, site: Path, wanted: Wanted, runs: int, link_mbit: float
) -> Iterator[Figure]:
    if shutil.which("curl") is None:
        yield Figure("fetch_ratio", None, "", 1.05, note="curl is not installed")
        return
    for name, rate, goal in (
        ("fetch_ratio", link_mbit * 1e6 / 8, 1.05),
        ("fetch_ratio_unpaced", 0.0, None),
    ):
        with serving(site, rate) as url:
            ours, theirs = [], []
            for _ in range(runs):
                ours.append(_ours(WebOrigin(url), wanted, folder / "ours"))
                theirs.append(_curl(url, folder / "theirs"))
        note = f"ours {statistics.median(ours):.3f} s, curl {statistics.median(theirs):.3f} s"
        note += "; ours hashes and flushes to the disk, curl does neither"
        yield Figure(name, paired_ratio(ours, theirs), "", goal, note=note)


def _ours(origin: Origin, wanted: Wanted, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.perf_counter()
    fetch(wanted, [origin], folder)
    return time.perf_counter() - begun


def _curl(url: str, path: Path) -> float:
    path.unlink(missing_ok=True)
    begun = time.perf_counter()
    subprocess.run(["curl", "-sSf", "-o", str(path), f"{url}/file"], check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
