"""The street video of the demo, from the distribution's own package.

`vtest.avi` (768x576, 795 frames, 10 per second) comes with Debian's and Ubuntu's `opencv-doc`. It is part of
the PETS 2009 benchmark, copyright University of Reading.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from edgetrt.errors import SourceError

PACKAGE = "opencv-doc"
NAME = "vtest.avi"
SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
TIMEOUT_S = 600


def fetch(cache: Path, say: Callable[[str], None]) -> Path:
    """Give the video from the cache, or get it through the system's package tool.

    Raises:
        SourceError: no package tool, no network, no room, or other bytes than expected.
    """
    try:
        return _cached(cache, say)
    except OSError as error:
        raise SourceError(
            f"the street video cannot be kept in {cache}: {error.strerror or error}",
            "Make room there or set XDG_CACHE_HOME; or name a video of your own: --video PATH.",
        ) from error


def _cached(cache: Path, say: Callable[[str], None]) -> Path:
    video = cache / NAME
    if video.exists() and _digest(video) == SHA256:
        return video
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SourceError(
                f"the street video comes in the Debian package {PACKAGE}, and {tool} is not here",
                "Name a video of your own: --video PATH.",
            )
    say(f"Fetching the street video from the package {PACKAGE} (96 MB, once) …")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        found = _extract(_download(Path(folder)), Path(folder) / NAME)
        digest = _digest(found)
        if not hmac.compare_digest(digest, SHA256):
            raise SourceError(
                f"{NAME} of package {PACKAGE}: SHA-256 is {digest}, expected {SHA256}",
                "The package has another video than the one the model was tried on; use --video PATH.",
            )
        found.replace(video)
    return video


def _download(folder: Path) -> Path:
    """Get the package file; on a system whose package lists were never read, read them first."""
    trouble = _apt("download", PACKAGE, folder=folder)
    if trouble and os.geteuid() == 0 and not _apt("update", folder=folder):
        trouble = _apt("download", PACKAGE, folder=folder)
    packages = list(folder.glob(f"{PACKAGE}_*.deb"))
    if trouble or not packages:
        raise SourceError(
            f"package {PACKAGE} cannot be fetched: {trouble or 'apt-get left no file'}",
            "Try `sudo apt-get update`, or name a video of your own: --video PATH.",
        )
    return packages[0]


def _apt(*arguments: str, folder: Path) -> str:
    """Run apt-get; returns the last line of its complaint, or nothing."""
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _extract(package: Path, target: Path) -> Path:
    """Take the video out of a package file, which may hold it compressed."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                data = _member(archive)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise SourceError(
                f"package {package.name} is damaged: {error}",
                "Fetch it again, or use --video PATH.",
            ) from error
        finally:
            process.terminate()
    if data is None:
        raise SourceError(f"package {package.name} holds no {NAME}", "Use --video PATH.")
    target.write_bytes(data)
    return target


def _member(archive: tarfile.TarFile) -> bytes | None:
    """Find the video, compressed or not."""
    for member in archive:
        if member.isfile() and Path(member.name).name in (NAME, f"{NAME}.gz"):
            content = archive.extractfile(member)
            if content is not None:
                data = content.read()
                return gzip.decompress(data) if member.name.endswith(".gz") else data
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
