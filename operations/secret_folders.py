"""The secrets of a Kafka in containers: a folder for each container, with what that one needs and nothing else.

``admin`` holds everything, and is the only one whose contents are made; the others get copies, at every start.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from contracts.rights import kafka_users
from contracts.secret_files import CA, certificate_file, key_file, pair_file, password_file, write_secret
from contracts.services import API
from operations.certificates import make

ADMIN, KAFKA = "admin", "kafka"
OWN_PROPERTIES = "kafka.properties"
"""For ``SETTLE_KAFKA_CONFIG``."""
ADMIN_PROPERTIES = "admin.properties"
"""For Kafka's own commands, in the container of the broker."""

_PROPERTIES = """\
security.protocol=SSL
ssl.keystore.type=PEM
ssl.keystore.location={folder}/{pair}
ssl.truststore.type=PEM
ssl.truststore.location={folder}/{ca}
"""


def lay_out(
    folder: Path,
    hosts: Sequence[str],
    owner: int | None,
    kafka_owner: int | None,
    mounted: Path,
    api_hosts: Sequence[str] = ("localhost",),
) -> list[str]:
    """Make what is missing, and give each folder its copies.

    Args:
        folder: has a folder ``admin``, and one for each container to serve: a Kafka user's name, or ``kafka``.
        hosts: the broker's, by which its certificate is verified.
        owner: the user ID of the folders' readers; None: they stay whose they are.
        kafka_owner: the same of the folder ``kafka``.
        mounted: where the broker will find its folder.
        api_hosts: the API's, likewise.

    Returns:
        The names of the folders served.

    Raises:
        OSError: a folder cannot be written.
    """
    source = folder / ADMIN
    users = [user.name for user in kafka_users()]
    make(source, {KAFKA: hosts, ADMIN: (), API: api_hosts}, users)
    served = []
    for name in (*users, KAFKA):
        place = folder / name
        if not place.is_dir():
            continue
        place.chmod(0o700)
        write_secret(place / CA, (source / CA).read_bytes())
        if name == KAFKA:
            for pair in (KAFKA, ADMIN):
                write_secret(place / pair_file(pair), (source / pair_file(pair)).read_bytes())
            text = _PROPERTIES.format(folder=mounted, pair=pair_file(ADMIN), ca=CA)
            write_secret(place / ADMIN_PROPERTIES, text.encode())
        else:
            password = (source / password_file(name)).read_bytes()
            write_secret(place / OWN_PROPERTIES, b"sasl.password=%s\n" % password)
        if name == API:
            for file in (certificate_file(API), key_file(API)):
                write_secret(place / file, (source / file).read_bytes())
        _give(place, kafka_owner if name == KAFKA else owner)
        served.append(name)
    _give(source, owner)
    return [ADMIN, *served]


def _give(folder: Path, owner: int | None) -> None:
    if owner is not None:
        for path in (*folder.iterdir(), folder):
            os.chown(path, owner, owner)
