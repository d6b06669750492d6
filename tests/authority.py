"""A certificate authority for tests: signs what real ones sign, and what they should not."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Credentials:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """Keeps its files in `folder`; `ca` is its certificate."""

    def __init__(self, folder: Path, name: str = "site-ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = folder / f"{name}.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            _builder(self._name, self._name, self._key.public_key(), -1.0, 3650.0)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = (),
        from_days: float = -1.0,
        to_days: float = 90.0,
        file: str = "",
        server: bool = False,
    ) -> Credentials:
        """Make a key and sign a certificate with CN = `name`, valid in this range from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._sign(_named(name), key.public_key(), from_days, to_days, hosts, server)
        paths = Credentials(
            self.folder / f"{file or name}.crt", self.folder / f"{file or name}.key"
        )
        paths.cert.write_bytes(cert)
        paths.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        paths.key.chmod(0o600)
        return paths

    def sign(self, request: Path, *, from_days: float = -1.0, to_days: float = 90.0) -> Path:
        """Sign a certificate request, as the site's authority does; returns the certificate."""
        csr = x509.load_pem_x509_csr(request.read_bytes())
        assert csr.is_signature_valid
        key = csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        path = self.folder / f"{request.stem}.signed.crt"
        path.write_bytes(self._sign(csr.subject, key, from_days, to_days, (), False))
        return path

    def revoke(self, cert: Path) -> Path:
        """A list with one revoked certificate on it."""
        revoked = x509.load_pem_x509_certificate(cert.read_bytes())
        now = dt.datetime.now(dt.timezone.utc)
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(revoked.serial_number)
            .revocation_date(now - DAY)
            .build()
        )
        crl = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - DAY)
            .next_update(now + DAY)
            .add_revoked_certificate(entry)
            .sign(self._key, hashes.SHA256())
        )
        path = self.folder / "revoked.crl"
        path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        return path

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        from_days: float,
        to_days: float,
        hosts: tuple[str, ...],
        server: bool,
    ) -> bytes:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(subject, self._name, key, from_days, to_days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    from_days: float,
    to_days: float,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + from_days * DAY)
        .not_valid_after(now + to_days * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
