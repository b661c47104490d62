"""Certificates of a stack on one machine: a CA made on the spot, and what it signs; all of them PEM files.

The CA's key is never written: who has the folder cannot make further certificates.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contracts.secret_files import CA, certificate_file, key_file, pair_file, password_file, write_secret

DAYS = 3_650
"""How long they are valid."""
CLOCKS_OFF = timedelta(hours=1)
PASSWORD_BYTES = 24


def make(
    folder: Path, certificates: Mapping[str, Sequence[str]], users: Iterable[str] = (), days: float = DAYS
) -> None:
    """Make a CA, certificates and passwords in a folder; what it has already stays as it is.

    A certificate that is missing, as one that a new version adds, is made by a further CA, trusted beside the
    first, whose key is gone: what runs goes on with what it has. Without a CA all are made anew.

    Args:
        folder: gets mode 0700; its files are readable by the owner alone.
        certificates: the hosts (names or IP addresses) of each, by its common name; a client's has none.
        users: who gets a password.
        days: how long the certificates are valid.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    missing = {name: hosts for name, hosts in certificates.items() if not _is_there(folder, name)}
    if missing:
        _make_certificates(folder, missing, timedelta(days=days))
    for user in users:
        file = folder / password_file(user)
        if not file.exists():
            write_secret(file, secrets.token_urlsafe(PASSWORD_BYTES).encode())


def _files(name: str) -> list[str]:
    return [certificate_file(name), key_file(name), pair_file(name)]


def _is_there(folder: Path, name: str) -> bool:
    return all((folder / file).exists() for file in (CA, *_files(name)))


def _make_certificates(folder: Path, certificates: Mapping[str, Sequence[str]], valid: timedelta) -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _named("Settle, of this stack alone")
    ca = _begun(ca_name, ca_key.public_key(), valid).issuer_name(ca_name)
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(_usage(signs_certificates=True), critical=True)
    ca_certificate = ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    # However this is interrupted, what is not whole is missing the next time, and what is there is trusted.
    for name in certificates:
        for file in _files(name):
            (folder / file).unlink(missing_ok=True)
    trusted = (folder / CA).read_bytes() if (folder / CA).exists() else b""
    write_secret(folder / CA, trusted + ca_certificate)
    for name, hosts in certificates.items():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _begun(_named(name), key.public_key(), valid).issuer_name(ca_name)
        certificate = certificate.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        certificate = certificate.add_extension(_usage(signs_certificates=False), critical=True)
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        certificate = certificate.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        certificate = certificate.add_extension(authority, critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_general(host) for host in hosts])
            certificate = certificate.add_extension(names, critical=False)
        public = certificate.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_secret(folder / certificate_file(name), public)
        write_secret(folder / key_file(name), private)
        write_secret(folder / pair_file(name), private + public)


def _begun(name: x509.Name, key: ec.EllipticCurvePublicKey, valid: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=name, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(min(now, now + valid) - CLOCKS_OFF).not_valid_after(now + valid)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
