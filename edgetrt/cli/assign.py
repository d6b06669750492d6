"""`edgetrt release assign` and `bundle`: which device gets which release, without a controller."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import typer

from edgetrt.cli.output import out
from edgetrt.errors import ConfigError

Folder = Annotated[Path, typer.Option("--repository", "-r", help="Folder of the repository.")]
HERE = Path("repository")


def assign(
    device: Annotated[str, typer.Option(help="Name of the device.")],
    generation: Annotated[int, typer.Option(min=1, help="Higher than any before.")],
    key: Annotated[str, typer.Option(help="The assignment key: a file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The envelope, to be sent.")],
    target: Annotated[
        str, typer.Argument(help="As releases/street-1.0.tar; without one, settings alone.")
    ] = "",
    setting: Annotated[
        list[str] | None, typer.Option(help="PIPELINE.NAME=VALUE, as street.rate_hz=5; repeatable.")
    ] = None,
    repository: Folder = HERE,
    not_after: Annotated[
        str | None, typer.Option(help="Not to be begun later, as 2027-01-31T12:00:00Z; 30 days.")
    ] = None,
    window: Annotated[str | None, typer.Option(help="When to switch, as 02:00-04:00.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Wait for a person on the device.")] = False,
) -> None:
    """Sign what a device is to run: the message that the controller would send it.

    Its settings are all that hold from then on: a pipeline without any is as its file says.
    """
    import msgspec

    from edgetrt.update import desired, keys

    if not target and not setting:
        raise ConfigError(
            "assignment: neither a release nor a setting", "Name a target, or use --setting."
        )
    until = datetime.now(timezone.utc) + timedelta(days=30)
    told = {
        "device": device,
        "generation": generation,
        **(_release(repository, target) if target else {}),
        "settings": _settings(setting or []),
        "policy": {"window": window, "ask": ask},
        "not_after": desired.moment(not_after) if not_after else until,
    }
    try:
        assignment = msgspec.convert(told, desired.Desired)
    except msgspec.ValidationError as error:
        raise ConfigError(f"assignment: {error}", "See --help.") from error
    output.write_bytes(desired.sign(assignment, [keys.signer(key)]))
    what = target or "settings alone"
    out.print(f"{device}: generation {generation} is {what}, in {output}", soft_wrap=True)


def _release(repository: Path, target: str) -> dict[str, object]:
    from edgetrt.update.repository import Repository

    found = Repository(repository).load("targets").signed.targets.get(target)
    if found is None:
        raise ConfigError(f"{target}: no such target", "See `edgetrt release show`.")
    return {"target": target, "sha256": found.hashes["sha256"], "length": found.length}


def _settings(texts: list[str]) -> dict[str, dict[str, object]]:
    """`street.rate_hz=5`, `street.only=[person]`; values are written as in a pipeline file."""
    import yaml

    settings: dict[str, dict[str, object]] = {}
    for text in texts:
        place, sign, value = text.partition("=")
        pipeline, dot, name = place.partition(".")
        if not (sign and dot and name):
            raise ConfigError(
                f"--setting {text!r}: expected PIPELINE.NAME=VALUE", "For example street.rate_hz=5."
            )
        try:
            settings.setdefault(pipeline, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--setting {text!r}: {error}", "Quote the value.") from error
    return settings


def bundle(
    target: Annotated[str, typer.Argument(help="As releases/street-1.0.tar.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="As street.edgetrt.")],
    desired: Annotated[list[Path], typer.Option(help="An envelope of `assign`; one per device.")],
    repository: Folder = HERE,
) -> None:
    """Put a release and all that proves it into one file, for devices without a network."""
    from edgetrt.update import bundle as bundles
    from edgetrt.update.repository import Repository

    envelopes = [path.read_bytes() for path in desired]
    bundles.write(Repository(repository), target, envelopes, output)
    out.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB", soft_wrap=True)
