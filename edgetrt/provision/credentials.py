"""Keys, requests and certificates: what belongs together, and until when."""

from __future__ import annotations

import datetime as dt
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetrt.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

_SET_SINCE = dt.datetime(2023, 11, 15, tzinfo=dt.timezone.utc)
"""Before the first release: a clock that says less has not been set."""


@dataclass(frozen=True)
class Identity:
    """What a certificate says, once it was found good.

    Attributes:
        device: its common name.
        issuer: who signed it.
        serial: in hexadecimal, as lists of revoked ones have it.
        expires: when it ends.
    """

    device: str
    issuer: str
    serial: str
    expires: dt.datetime


def ready() -> None:
    """See that the library for keys and certificates is there.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError(
            "provisioning needs the Python library cryptography, which is not installed",
            "The Debian package brings it; elsewhere: pip install 'edgetrt[update]'.",
        )


def new_key() -> bytes:
    """A key on P-256 as PEM: what every TLS library and TPM takes."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_request(key: bytes, device: str) -> bytes:
    """A certificate signing request for the device, signed with its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signer = _key(key, "device.key")
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def check(
    cert: bytes, key: bytes, ca: bytes, device: str, now: dt.datetime, names: tuple[str, str, str]
) -> Identity:
    """Look at everything that can be known without the broker.

    Args:
        cert: PEM; what follows the device's certificate are those between it and the CA.
        key: PEM.
        ca: PEM, one or more.
        device: whose it must be.
        now: by this device's clock.
        names: of the three files, for people.

    Raises:
        ConfigError: not PEM, another key, another name, expired or not yet valid, or not signed by the CA.
    """
    cert_name, key_name, ca_name = names
    (leaf, *between), roots = _certificates(cert, cert_name), _certificates(ca, ca_name)
    if _public(_key(key, key_name).public_key()) != _public(leaf.public_key()):
        raise ConfigError(
            f"{cert_name}: made for another key than {key_name}",
            "Take the certificate that was signed for this device's last request, or make a new one "
            "with --csr.",
        )
    _check_name(leaf, device, cert_name)
    _check_dates(leaf, now, cert_name)
    _check_chain(leaf, between, roots, now, (cert_name, ca_name))
    _check_use(leaf, cert_name)
    return Identity(
        device, leaf.issuer.rfc4514_string(), f"{leaf.serial_number:x}", leaf.not_valid_after_utc
    )


def belongs(cert: bytes, key: bytes) -> bool:
    """Whether a certificate was made for a key; False when one of them cannot be read."""
    try:
        leaf, *_ = _certificates(cert, "")
        return _public(leaf.public_key()) == _public(_key(key, "").public_key())
    except ConfigError:
        return False


def check_authority(ca: bytes, name: str) -> None:
    """See that a file holds certificates; raises ConfigError."""
    _certificates(ca, name)


def _certificates(pem: bytes, name: str) -> list[Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        kind = "a key" if b"PRIVATE KEY" in pem else "a request" if b"REQUEST" in pem else ""
        what = f"holds {kind}" if kind else f"cannot be read: {error}"
        raise ConfigError(
            f"{name}: expected a certificate as PEM, but it {what}",
            "It begins with -----BEGIN CERTIFICATE-----.",
        ) from error


def _key(pem: bytes, name: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{name}: expected a private key as PEM, without a password: {error}",
            "The agent starts without anybody who could type one.",
        ) from error


def _public(key: object) -> bytes:
    from cryptography.hazmat.primitives import serialization

    written: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return written


def _check_name(leaf: Certificate, device: str, name: str) -> None:
    from cryptography.x509.oid import NameOID

    found = [str(part.value) for part in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if found != [device]:
        said = ", ".join(map(repr, found)) or "none"
        raise ConfigError(
            f"{name}: its common name is {said}, this device is {device!r}",
            "The broker knows a device by that name. Take the certificate of this device, or name the "
            "device with --device.",
        )


def _check_dates(leaf: Certificate, now: dt.datetime, name: str) -> None:
    if now < leaf.not_valid_before_utc:
        raise ConfigError(
            f"{name}: not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; this device's "
            f"clock says {now:%Y-%m-%d %H:%M}",
            _SET_CLOCK if now < _SET_SINCE else "Wait, or check the clocks here and at the CA.",
        )
    if now > leaf.not_valid_after_utc:
        raise ConfigError(
            f"{name}: expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; this device's clock "
            f"says {now:%Y-%m-%d %H:%M}",
            "Have a new one signed: edgetrt provision --csr.",
        )


_SET_CLOCK = "The clock has not been set: sudo timedatectl set-ntp true, or date --set."


def _check_chain(
    leaf: Certificate,
    between: list[Certificate],
    roots: list[Certificate],
    now: dt.datetime,
    names: tuple[str, str],
) -> None:
    """Walk from the device's certificate up to one of the CA's."""
    cert_name, ca_name = names
    at = leaf
    for _ in range(len(between) + 1):
        if (root := _issuer(at, roots)) is not None:
            _check_dates(root, now, ca_name)
            return
        found = _issuer(at, between)
        if found is None:
            break
        _check_dates(found, now, cert_name)
        at = found
    subjects = ", ".join(root.subject.rfc4514_string() for root in roots)
    raise ConfigError(
        f"{cert_name}: signed by {at.issuer.rfc4514_string()}, not by {ca_name} ({subjects})",
        "Take the CA that signs for this site, or put the certificates between the two into the "
        "certificate's file.",
    )


def _issuer(of: Certificate, among: list[Certificate]) -> Certificate | None:
    from cryptography.exceptions import InvalidSignature

    for candidate in among:
        try:
            of.verify_directly_issued_by(candidate)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return candidate
    return None


def _check_use(leaf: Certificate, name: str) -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise ConfigError(
            f"{name}: made for servers (its extended key usage has no clientAuth)",
            "Have it signed for a client.",
        )
