"""Keys as files: private ones for their owner only, public ones as JSON beside them."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import CryptoSigner, Key, Signer

from edgetrt.errors import ConfigError

PUBLIC = ".pub.json"


def make(folder: Path, name: str) -> Key:
    """Make an Ed25519 pair: `<name>.pem`, mode 0600, and `<name>.pub.json`.

    Raises:
        ConfigError: there is a key of that name; it is never overwritten.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True, mode=0o700)
    signer = CryptoSigner.generate_ed25519()
    path = folder / f"{name}.pem"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already", "Choose another name for the key.") from None
    with os.fdopen(fd, "wb") as file:
        file.write(signer.private_bytes)
        file.flush()
        os.fsync(file.fileno())
    public = {"keyid": signer.public_key.keyid, **signer.public_key.to_dict()}
    path.with_suffix(PUBLIC).write_text(json.dumps(public, indent=2) + "\n", "utf-8")
    return signer.public_key


def public(path: Path) -> Key:
    """Read a public key, given its own file or the private one beside it.

    Raises:
        ConfigError: the file is missing or is not a public key.
    """
    path = path.with_suffix(PUBLIC) if path.suffix == ".pem" else path
    try:
        data = json.loads(path.read_bytes())
        return Key.from_dict(data.pop("keyid"), data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a public key: {error}", f"Give a *{PUBLIC} file."
        ) from error


def signer(where: str, beside: Path | None = None) -> Signer:
    """What signs: a private key file, or a URI of a security module or key service.

    Args:
        where: path of a PEM file, or a URI as securesystemslib takes, such as `hsm:…` or `gcpkms:…`.
        beside: the public key, when `where` is a URI.

    Raises:
        ConfigError: it cannot be used, or others can read it.
    """
    try:
        if ":" in where and beside is not None:
            return Signer.from_priv_key_uri(where, public(beside))
        path = Path(where)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{path}: mode {mode:04o}, expected 0600: others can read this private key",
                f"chmod 600 {path}, and make a new key if others could have read it.",
            )
        return CryptoSigner.from_priv_key_uri(f"file2:{path.resolve()}", public(path))
    except (OSError, ValueError, SslibError) as error:
        raise ConfigError(f"{where}: cannot be used to sign: {error}", "Check the key.") from error


def folder_signers(folder: Path) -> dict[str, Signer]:
    """Every private key of a folder, by its key id."""
    found = [signer(str(path)) for path in sorted(folder.glob("*.pem"))]
    return {one.public_key.keyid: one for one in found}
