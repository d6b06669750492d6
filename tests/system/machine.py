"""A fresh machine in a folder: a minimal Debian or Ubuntu root, entered with chroot.

It gets this machine's package sources and pip's settings, read when it is made and written nowhere
else. Everything that runs in it does so in a mount and process namespace of its own, which takes
the mounts and any left process with it, however the run ends. A root of another release has only
the mirror's own packages, and one of another architecture runs in an emulator (`emulated`).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTER = """
set -eu
root=$1 folders=$2 user=$3
shift 3
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
for folder in $folders; do
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
done
exec chroot --userspec="$user:$user" "$root" "$@"
"""
NAMESPACE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
APT = ("sources.list", "sources.list.d", "apt.conf.d", "preferences.d", "trusted.gpg.d", "keyrings")
TRUST_AND_NAMES = (
    "/usr/share/keyrings",
    "/usr/local/share/ca-certificates",
    "/etc/resolv.conf",
    "/etc/hosts",
)
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Machine:
    """A root folder; `environment` is what every command in it sees."""

    root: Path
    environment: dict[str, str]
    folders: tuple[str, ...]

    def run(
        self, *command: str, user: str = "root", folder: str = "/", timeout_s: float = 1800
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder of it as `user`; its stderr goes to ours, so that one sees it work."""
        home = "/root" if user == "root" else f"/home/{user}"
        path = "/usr/sbin:/usr/bin" if user == "root" else "/usr/bin"  # as Debian gives them
        inside = ["env", "-i", f"--chdir={folder}", f"HOME={home}", f"USER={user}", f"PATH={path}"]
        inside += [f"{key}={value}" for key, value in self.environment.items()]
        outside = [
            *NAMESPACE,
            "sh",
            "-c",
            ENTER,
            "sh",
            str(self.root),
            " ".join(self.folders),
            user,
        ]
        return subprocess.run(
            [*outside, *inside, *command],
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def clone(self, repository: Path, user: str = "root") -> str:
        """Clone `repository` at HEAD for a user, made if need be; returns the path inside."""
        to = "/srv/edgetrt" if user == "root" else f"/home/{user}/edgetrt"
        if user != "root":
            self.run("useradd", "--create-home", user)
        clone = ["git", "clone", "--quiet", "--no-hardlinks", str(repository), f"{self.root}{to}"]
        subprocess.run(clone, check=True)
        self.run("chown", "--recursive", f"{user}:{user}", to)
        return to


def make(root: Path, suite: str | None = None, arch: str | None = None) -> Machine:
    """Unpack a fresh root, kept in the user's cache, and give it this machine's sources.

    Args:
        root: an empty folder.
        suite: Debian's name of the release; this machine's own where it is None.
        arch: Debian's name of the architecture; this machine's own where it is None.
    """
    subprocess.run(["tar", "-xf", base(suite, arch), "-C", root], check=True)
    if suite is None and arch is None:
        (root / "etc/apt/sources.list").unlink(missing_ok=True)  # debootstrap's own
        for name in APT:
            _copy(Path("/etc/apt", name), root)
    else:
        _copy(Path("/etc/apt/apt.conf.d"), root)
    for name in TRUST_AND_NAMES:
        _copy(Path(name), root)
    settings = pip_settings()
    paths = [Path(p.removeprefix("file://")) for v in settings.values() for p in v.split()]
    # An index in a folder points at the files beside it.
    paths = [p.parent if p.name == "simple" else p for p in paths if p.is_absolute()]
    for path in paths:
        if path.is_file():
            _copy(path, root)
    proxies = {key: os.environ[key] for key in PROXIES if key in os.environ}
    environment = {"LANG": "C.UTF-8", **proxies, **settings}
    return Machine(root, environment, tuple(str(p) for p in paths if p.is_dir()))


def base(suite: str | None = None, arch: str | None = None) -> Path:
    """The tar of a root with git and python3 and nothing else."""
    site, own = mirror()
    suite = suite or own
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "edgetrt")
    tar = cache / f"root-{suite}-{arch or platform.machine()}.tar"
    if not tar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        folder = cache / "root.new"
        shutil.rmtree(folder, ignore_errors=True)
        options = ["--variant=minbase", "--include=git,python3"]
        options += [f"--arch={arch}"] if arch else []
        # In a namespace, for debootstrap mounts /proc inside and a killed one would leave it there.
        subprocess.run([*NAMESPACE, "debootstrap", *options, suite, folder, site], check=True)
        subprocess.run(["tar", "-cf", f"{tar}.new", "-C", folder, "."], check=True)
        Path(f"{tar}.new").replace(tar)
        shutil.rmtree(folder)
    return tar


@contextmanager
def emulated(machine: str) -> Iterator[None]:
    """Let the kernel run programs of another machine, such as `aarch64`, by qemu-user-static."""
    folder, name = Path("/proc/sys/fs/binfmt_misc"), f"qemu-{machine}"
    mounted = (folder / "register").exists()
    if not mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "none", folder], check=True)
    known = (folder / name).exists()
    if not known:
        (folder / "register").write_text(Path(f"/usr/lib/binfmt.d/{name}.conf").read_text())
    try:
        yield
    finally:
        if not known:
            (folder / name).write_text("-1")
        if not mounted:
            subprocess.run(["umount", folder], check=True)


def mirror() -> tuple[str, str]:
    """Where this machine's own packages come from, and its release."""
    listing = ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"]
    lines = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    for site, suite in (line.split() for line in lines):
        if suite == release:
            return site, suite
    raise LookupError(f"apt has no source for {release}: {lines}")


def pip_settings() -> dict[str, str]:
    """Pip's settings on this machine, of files and environment alike, as environment variables."""
    listing = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = [line.split("=", 1) for line in lines if line.startswith(("global.", ":env:."))]
    names = {key: key.rpartition(".")[2].upper().replace("-", "_") for key, _ in pairs}
    values = {f"PIP_{names[key]}": value.strip("'\"").replace("\\n", " ") for key, value in pairs}
    values.pop("PIP_CONFIG_FILE", None)
    return values


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    elif path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy(path, target)
