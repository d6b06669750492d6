"""`edgetrt release`: a repository of signed releases, as a tree of files for any web server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from edgetrt.cli.assign import HERE, Folder, assign, bundle
from edgetrt.cli.output import err, out, print_json
from edgetrt.cli.serve import serve
from edgetrt.errors import ConfigError, TrustError

if TYPE_CHECKING:
    from edgetrt.update.repository import Repository
    from edgetrt.update.roles import State

app = typer.Typer(help="Make, sign, publish and check releases.", no_args_is_help=True)

app.command()(assign)
app.command()(bundle)
app.command()(serve)

Keys = Annotated[Path | None, typer.Option(help="Folder of keys; default: keys/ beside it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("init")
def init(
    repository: Folder = HERE,
    keys: Keys = None,
    root_keys: Annotated[int, typer.Option(min=1, help="How many root keys to make.")] = 3,
    root_threshold: Annotated[int, typer.Option(min=1, help="How many must sign.")] = 2,
    json: JsonOption = False,
) -> None:
    """Make a repository and its keys, signed and published; then take root and targets offline."""
    from edgetrt.update import keys as keyring
    from edgetrt.update import roles
    from edgetrt.update.repository import Repository

    folder = _keys(repository, keys)
    names = (*roles.OFFLINE, *roles.ONLINE, roles.ASSIGNMENT)
    if (repository / "public").exists():
        raise ConfigError(f"{repository}: there is a repository already", "Choose another folder.")
    if root_threshold > root_keys:
        raise ConfigError(
            f"--root-threshold {root_threshold}: there are {root_keys} root keys", "Make more keys."
        )
    made = {
        role: [
            keyring.make(folder, f"{role}-{number + 1}")
            for number in range(root_keys if role == "root" else 1)
        ]
        for role in names
    }
    new = Repository.create(repository, made, {"root": root_threshold})
    signers = keyring.folder_signers(folder)
    new.sign(signers.values())
    versions = new.publish(signers)
    if json:
        print_json({"repository": str(repository), "keys": str(folder), "versions": versions})
        return
    out.print(f"Repository {repository}, keys in {folder}.", soft_wrap=True)
    out.print("Serve its folder public/; give devices public/metadata/1.root.json.")
    out.print("Move root-*.pem and targets-*.pem to offline media: whoever has them can sign.")


@app.command("add")
def add(
    release: Annotated[Path, typer.Argument(help="release.yaml.")],
    repository: Folder = HERE,
    json: JsonOption = False,
) -> None:
    """Pack a release and stage the metadata that names it, for `sign` and `publish`."""
    from edgetrt.update import archive

    target = _open(repository).add(release)
    vain = archive.vain_bounds(release)
    for bound in vain:
        err.print(f"[yellow]warning:[/] {escape(bound)}", soft_wrap=True, highlight=False)
    if json:
        print_json({"target": target, "warnings": vain})
    else:
        out.print(f"{target} is staged; sign it and publish it.")


@app.command("withdraw")
def withdraw(
    target: Annotated[str, typer.Argument(help="As releases/street-1.0.tar.")],
    repository: Folder = HERE,
) -> None:
    """Stage metadata without a release: once published, nobody installs it any more."""
    _open(repository).withdraw(target)
    out.print(f"{target} is gone from the staged metadata; sign it and publish it.")


@app.command("sign")
def sign(
    repository: Folder = HERE,
    key: Annotated[
        list[str] | None, typer.Option(help="Key file, or URI of a module; default: all in --keys.")
    ] = None,
    public: Annotated[
        Path | None, typer.Option(help="The public key, when --key is a URI.")
    ] = None,
    keys: Keys = None,
    json: JsonOption = False,
) -> None:
    """Add signatures to what is staged; `staged/` may be carried to where the keys are."""
    from edgetrt.update import keys as keyring

    if key:
        signers = [keyring.signer(where, public) for where in key]
    else:
        signers = list(keyring.folder_signers(_keys(repository, keys)).values())
    repo = _open(repository)
    before, after = repo.staged(), repo.sign(signers)
    _tell(after, json)
    if not after and not json:
        out.print("Nothing is staged: there is nothing to sign.")
    lacking = [state for state in after if state.missing]
    if lacking and [state.signed for state in before] == [state.signed for state in after]:
        wanted = ", ".join(keyid[:12] for state in lacking for keyid in state.missing)
        raise TrustError(
            f"nothing was signed: none of the {len(signers)} keys here is wanted by"
            f" {' or '.join(state.role for state in lacking)}",
            f"Bring a key of these ids: {wanted}; --keys names its folder, --key the file.",
            "threshold",
        )


@app.command("publish")
def publish(
    repository: Folder = HERE,
    keys: Keys = None,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="This clock is right, long pause or not.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Publish what is staged, and renew the online roles; run it from a timer every day."""
    from edgetrt.update import keys as keyring

    signers = keyring.folder_signers(_keys(repository, keys))
    versions = _open(repository).publish(signers, trust_clock)
    if json:
        print_json({"versions": versions})
    else:
        out.print(", ".join(f"{role} {version}" for role, version in versions.items()))


@app.command("rotate")
def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, snapshot, timestamp or assignment.")],
    repository: Folder = HERE,
    add: Annotated[list[Path] | None, typer.Option(help="Public key to add.")] = None,
    new: Annotated[list[str] | None, typer.Option(help="Name of a key to make and add.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Key id, or its beginning.")] = None,
    threshold: Annotated[int | None, typer.Option(min=1, help="How many must sign.")] = None,
    keys: Keys = None,
    json: JsonOption = False,
) -> None:
    """Stage other keys for a role; a removed key counts for nothing once this is published."""
    from edgetrt.update import keys as keyring

    repo, folder = _open(repository), _keys(repository, keys)
    added = [keyring.public(path) for path in add or []]
    added += [keyring.make(folder, name) for name in new or []]
    repo.rotate(role, added, remove or [], threshold)
    _tell(repo.staged(), json)


@app.command("show")
def show(repository: Folder = HERE, json: JsonOption = False) -> None:
    """Print what is published: roles, keys, releases; and what is staged."""
    repo = _open(repository)
    told = _published(repo)
    if json:
        print_json({**told, "staged": [asdict(state) for state in repo.staged()]})
        return
    for role, about in told["roles"].items():
        keyids = ", ".join(keyid[:12] for keyid in about["keys"])
        out.print(
            f"[bold]{role}[/] version {about['version']}, until {about['expires']}, "
            f"{about['threshold']} of: {keyids}",
            soft_wrap=True,
            highlight=False,
        )
    for target, about in told["targets"].items():
        out.print(f"{target}  {about['length']} bytes  {about['sha256'][:16]}…", highlight=False)
    _tell(repo.staged(), json=False)


@app.command("verify")
def verify(
    repository: Folder = HERE,
    root: Annotated[
        Path | None, typer.Option(help="What devices trust; default: the repository's first root.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Take every release as a device would, from the first root on."""
    from edgetrt.update.audit import audit

    repo = _open(repository)
    checked = audit(repo.folder / "public", root.read_bytes() if root else repo.first_root())
    if json:
        print_json({"verified": checked})
    else:
        out.print(f"{len(checked)} releases verified: {', '.join(checked) or 'none yet'}")


def _published(repo: Repository) -> dict[str, Any]:
    root, targets = repo.load("root").signed, repo.load("targets").signed
    about = {}
    for role, wanted in root.roles.items():
        have = repo.load(role).signed
        about[role] = {
            "version": have.version,
            "expires": have.expires.isoformat(),
            "threshold": wanted.threshold,
            "keys": wanted.keyids,
        }
    found = {
        path: {"length": one.length, "sha256": one.hashes["sha256"], "custom": one.custom}
        for path, one in targets.targets.items()
    }
    return {"roles": about, "targets": found}


def _tell(states: list[State], json: bool) -> None:
    if json:
        print_json({"staged": [asdict(state) for state in states]})
        return
    for state in states:
        missing = f"; lacks {', '.join(keyid[:12] for keyid in state.missing)}"
        out.print(
            f"staged: {state.role} version {state.version}, {state.signed} signatures of "
            f"{state.threshold} needed{missing if state.missing else ', ready to publish'}",
            soft_wrap=True,
            highlight=False,
        )


def _keys(repository: Path, keys: Path | None) -> Path:
    return keys or repository.parent / "keys"


def _open(folder: Path) -> Repository:
    from edgetrt.update.repository import Repository

    if not (folder / "public").is_dir():
        raise ConfigError(f"{folder}: no repository", "Make one with `edgetrt release init`.")
    return Repository(folder)
