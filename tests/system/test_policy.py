"""What Debian's own examiners say of the package: lintian of its files, piuparts of its coming and going."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.system import machine as machines
from tests.system.test_deb import package

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["package"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

# What systemd, its tmpfiles.d, Python and dpkg themselves leave, installed on the way by our dependencies.
NOT_OURS = (
    r"/var/lib/systemd/.*",
    r"/var/log/.*",
    r"/etc/systemd/.*",
    r"/var/lib/dbus/.*",
    r"/var/lib/private/?",
    r"/root/\.ssh/?",
    r"/etc/machine-id",
    r"/usr/share/python3/runtime.d.*",
    r"/var/cache/.*",
    r"/etc/\.pwd\.lock",
    r"/etc/(passwd|group|shadow|gshadow)-?",
)


def test_lintian_has_nothing_to_say(package: Path) -> None:
    lintian = ["lintian", "--no-cfg", "--allow-root", "--profile", "debian"]
    lintian += ["--fail-on", "error,warning", "--display-level", ">=warning"]

    done = subprocess.run([*lintian, package], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert not re.search(r"^[EW]: ", done.stdout, re.MULTILINE)


def test_an_override_without_a_case_is_none(package: Path) -> None:
    lintian = ["lintian", "--no-cfg", "--allow-root", "--profile", "debian"]
    lintian += ["--tags", "unused-override,mismatched-override"]

    done = subprocess.run([*lintian, package], capture_output=True, text=True, check=False)

    assert "override" not in done.stdout


def test_installed_upgraded_and_purged_it_leaves_nothing(package: Path, tmp_path: Path) -> None:
    root, repository = tmp_path / "root", tmp_path / "repository"
    root.mkdir()
    repository.mkdir()
    machines.make(root)
    shutil.copy(older(package, tmp_path), repository)
    scan = ["dpkg-scanpackages", "--multiversion", "."]
    listed = subprocess.run(scan, cwd=repository, capture_output=True, text=True, check=True)
    (repository / "Packages").write_text(listed.stdout)
    site, suite = machines.mirror()
    piuparts = ["piuparts", "--existing-chroot", str(root), "--distribution", suite]
    piuparts += ["--mirror", f"{site} main", "--no-eatmydata", "--bindmount"]
    piuparts += [str(repository), "--extra-repo", f"deb [trusted=yes] file:{repository} ./"]
    piuparts += ["--skip-logrotatefiles-test", "--skip-cronfiles-test"]
    piuparts += [f"--ignore-regex={pattern}" for pattern in NOT_OURS]

    done = subprocess.run(
        [*piuparts, package],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )

    print("\n".join(line for line in done.stdout.splitlines() if "PASS" in line))
    assert done.returncode == 0, done.stdout[-6000:]
    assert "PASS: Installation, upgrade and purging tests" in done.stdout


def older(package: Path, folder: Path) -> Path:
    """The same by an older number."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub("Version: .*", "Version: 0.0.9", control.read_text()))
    made = folder / "edgetrt_0.0.9.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", str(tree), str(made)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return made
