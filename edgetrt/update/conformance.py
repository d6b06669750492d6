"""Our device client behind the commands of TUF's conformance suite.

`python -m edgetrt.update.conformance --metadata-dir DIR init ROOT.json`, and `refresh` and `download` as
https://github.com/theupdateframework/tuf-conformance describes them. Metadata and files come through
our own fetchers; exit 0 or 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient import Updater

from edgetrt.errors import EdgetrtError
from edgetrt.update.fetch import Wanted, fetch
from edgetrt.update.trust import OriginFetcher
from edgetrt.update.web import WebOrigin


def main(arguments: list[str] | None = None) -> int:
    """Run one command of the protocol; returns its exit code."""
    wishes = _parser().parse_args(arguments)
    try:
        if wishes.command == "init":
            _init(wishes.metadata_dir, wishes.root)
        elif wishes.command == "refresh":
            _updater(wishes).refresh()
        else:
            _download(wishes)
    except (RepositoryError, DownloadError, EdgetrtError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _init(folder: Path, root: Path) -> None:
    """Trust a root, without asking anybody."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root, folder / "root.json")


def _updater(wishes: argparse.Namespace) -> Updater:
    origin = WebOrigin(wishes.metadata_url, allow_http=True)
    return Updater(
        str(wishes.metadata_dir),
        wishes.metadata_url,
        fetcher=OriginFetcher(origin, f"{wishes.metadata_url.rstrip('/')}/"),
        bootstrap=None,
    )


def _download(wishes: argparse.Namespace) -> None:
    updater = _updater(wishes)
    updater.refresh()
    origin = WebOrigin(wishes.target_base_url, allow_http=True)
    for name in wishes.target_name:
        target = updater.get_targetinfo(name)
        if target is None:
            raise RepositoryError(f"{name}: no such target")
        to = wishes.target_dir / quote(name, safe="")
        if updater.find_cached_target(target, str(to)) is not None:
            continue
        path = _path(wishes.metadata_dir, target)
        if "sha256" in target.hashes:
            wanted = Wanted(path, target.hashes["sha256"], target.length)
            fetch(wanted, [origin], wishes.target_dir / ".fetched").replace(to)
        else:  # no release of ours, yet a target all the same
            with OriginFetcher(origin, "").download_file(path, target.length) as file:
                target.verify_length_and_hashes(file)
                file.seek(0)
                to.write_bytes(file.read())


def _path(metadata: Path, target: TargetFile) -> str:
    """Repositories without consistent snapshots keep targets under their plain names."""
    root = Metadata[Root].from_bytes((metadata / "root.json").read_bytes())
    if not root.signed.consistent_snapshot:
        return target.path
    folder, slash, name = target.path.rpartition("/")
    return f"{folder}{slash}{next(iter(target.hashes.values()))}.{name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgetrt.update.conformance", description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


if __name__ == "__main__":
    sys.exit(main())
