"""Files with secrets: their names in a folder of certificates and passwords, and how one is written."""

import os
from pathlib import Path

CA = "ca.crt"
"""The certificate of the authority that signed the others."""


def certificate_file(name: str) -> str:
    """The name of a certificate's file."""
    return f"{name}.crt"


def key_file(name: str) -> str:
    """The name of its private key's file: PKCS #8, not encrypted, readable by its owner alone."""
    return f"{name}.key"


def pair_file(name: str) -> str:
    """The name of the file that holds both, as Kafka's broker takes them."""
    return f"{name}.pem"


def password_file(user: str) -> str:
    """The name of a file with a user's password."""
    return f"{user}.password"


def write_secret(file: Path, contents: bytes) -> None:
    """Write a file that only its owner may read, in one step, also where the power fails."""
    unfinished = file.with_name(f"{file.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
        new.write(contents)
        new.flush()
        os.fsync(new.fileno())
    unfinished.rename(file)
