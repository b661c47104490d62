"""Log positions: where a row stands in a database's log, and the header of a record that says its own."""

import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """A database and its outbox, and up to where what it committed is known to be published.

    Attributes:
        tag: eight hexadecimal digits that tell databases apart, and their outboxes.
        confirmed_lsn: rows committed before are not handed over again; 0 where that is not known.
        now_us: when this was asked, by the database's clock, microseconds since the Unix epoch.
        share: which rows of the outbox are meant, as ``2of4``; nothing: all.
    """

    tag: bytes
    confirmed_lsn: int
    now_us: int
    share: str = ""

    @property
    def name(self) -> bytes:
        """What its positions begin with: the tag, and the share."""
        return b"%b-%b" % (self.tag, self.share.encode()) if self.share else self.tag

    def position(self, lsn: int) -> bytes:
        """The header of a record whose row was committed at ``lsn``: ``1f0c9a3e:16/B374D848``."""
        return b"%b:%b" % (self.name, format_lsn(lsn).encode())

    def has_confirmed(self, position: bytes | None) -> bool:
        """Whether a record with this header is of this share of the outbox, and its position confirmed."""
        if position is None or not position.startswith(self.name + b":"):
            return False
        try:
            return parse_lsn(position[len(self.name) + 1 :].decode()) < self.confirmed_lsn
        except ValueError:  # no relay wrote that
            return False

    def is_of(self, position: bytes | None) -> bool:
        """Whether a record with this header may be of a row of this share.

        It is, if it is of this share, of the outbox when it was not split, or of when it was split otherwise.
        """
        if position is None or not position.startswith((self.tag + b":", self.tag + b"-")):
            return False
        name = position.partition(b":")[0]
        if name in (self.name, self.tag) or not self.share:
            return True
        return name.rpartition(b"of")[2] != self.share.rpartition("of")[2].encode()


def tag(system_identifier: str, database_oid: int, outbox: str = "") -> bytes:
    """The tag that identifies an outbox; a promoted standby has its primary's.

    Args:
        system_identifier, database_oid: of the database.
        outbox: which it is (:attr:`outbox_relay.outbox.Outbox.identity`); nothing for the standard one.
    """
    of_database = f"{system_identifier}/{database_oid}"
    return b"%08x" % zlib.crc32((f"{of_database}/{outbox}" if outbox else of_database).encode())


def format_lsn(lsn: int) -> str:
    """A log position as PostgreSQL writes it, ``0/16B3748``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """A log position from PostgreSQL's way of writing it."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
