"""The keys of rows that need not be published any more, kept until the rows are removed from the table.

A row is removed because *its* key is here: Kafka has acknowledged it, or its topic was found to hold it. A log
position past a row proves nothing, as the stream may have skipped it. A key is the row's UUID; of a table with
other IDs, the digest of all of a row's contents (:mod:`outbox_relay.identity`).
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

from outbox_relay.identity import UUID_BYTES

DIGEST_BYTES = 32
# Most that is kept; of what is forgotten beyond it, the topics are asked.
KEYS_MAX = 5_000_000
# A commit is in the log, and may be published, a moment before others see its rows; much longer where a standby
# has to confirm. Rows that were not seen so often are left to the search for those that did not come.
LOOKS_MAX = 5
# A plain key takes five times what a packed one does, and with a backlog those of some seconds may wait for the
# cleaner. To pack the few of a small transaction costs more than it saves.
PACK_KEYS_MIN = 16

# Of a binary array: number of dimensions, flags, type of the elements, how many they are, the first index.
_array_header = struct.Struct(">iiIii")


@dataclass(eq=False)
class Chunk:
    """Some keys, in the order in which they were handled.

    Attributes:
        packed: 16 bytes each for UUIDs, 32 for digests.
        width: how many.
        missing: how many of their rows were not seen in the table yet.
        looks: how often they were looked for.
    """

    packed: bytes
    width: int
    missing: int = field(init=False)
    looks: int = 0

    def __post_init__(self) -> None:
        self.missing = len(self)

    def __len__(self) -> int:
        return len(self.packed) // self.width

    def as_array(self) -> bytes:
        """All of them as an array of ``uuid``, or of ``bytea``, in PostgreSQL's binary format."""
        width, count = self.width, len(self)
        elements = bytearray((struct.pack(">i", width) + bytes(width)) * count)
        for at in range(width):
            elements[4 + at :: 4 + width] = self.packed[at::width]
        element_type = types["uuid" if width == UUID_BYTES else "bytea"].oid
        return _array_header.pack(1, 0, element_type, count, 1) + elements

    def keys(self) -> Iterator[bytes]:
        """Each as the table has it: a UUID's text, or a digest."""
        if self.width == UUID_BYTES:
            return (str(UUID(bytes=key)).encode() for key in self._each())
        return self._each()

    def _each(self) -> Iterator[bytes]:
        return (self.packed[at : at + self.width] for at in range(0, len(self.packed), self.width))


class ChunkDumper(Dumper):
    """Makes a chunk a parameter of a query: in binary format, as parsing the text of 50,000 UUIDs takes long."""

    format = Format.BINARY

    def dump(self, chunk: Chunk) -> bytes:
        """The parameter."""
        return chunk.as_array()


class Handled:
    """Keys on their way from the thread that publishes to the one that removes.

    Args:
        uuids: whether all are UUIDs in PostgreSQL's way of writing them, and not digests.
    """

    def __init__(self, *, uuids: bool) -> None:
        self.uuids = uuids
        self._width = UUID_BYTES if uuids else DIGEST_BYTES
        self._incoming: deque[tuple[Sequence[bytes | None], Sequence[bytes]]] = deque()
        self._chunks: deque[Chunk] = deque()
        self._count = 0

    # Called by the thread that publishes.

    def add(self, keys: Sequence[bytes | None], packed: Sequence[bytes] = ()) -> None:
        """Add keys of rows that need not be published any more: plain, and packed by :meth:`pack`."""
        if len(keys) >= PACK_KEYS_MIN:
            keys, packed = (), (*packed, self.pack(keys))
        self._incoming.append((keys, packed))

    def pack(self, keys: Sequence[bytes | None]) -> bytes:
        """Keys in compact form; a row without an ID has none, and is identified otherwise."""
        together = b"".join([key for key in keys if key is not None])
        return bytes.fromhex(together.replace(b"-", b"").decode()) if self.uuids else together

    # Called by the thread that removes.

    def chunk(self, keys: Sequence[bytes]) -> Chunk:
        """Keys as a chunk that is none of those taken in."""
        return Chunk(self.pack(keys), self._width)

    def gather(self, chunk_keys: int) -> bool:
        """Collect the keys added since the last call, in chunks of so many; drop the oldest beyond the limit.

        Returns:
            Whether some were dropped.
        """
        loose: list[bytes | None] = []
        packed: list[bytes] = []
        while self._incoming:
            keys, parts = self._incoming.popleft()
            loose += keys
            packed += parts
        packed.append(self.pack(loose))
        together = b"".join(packed)
        for at in range(0, len(together), chunk_keys * self._width):
            self._chunks.append(chunk := Chunk(together[at : at + chunk_keys * self._width], self._width))
            self._count += len(chunk)
        are_too_many = self._count > KEYS_MAX
        while self._count > KEYS_MAX:
            self.drop(self._chunks[0])
        return are_too_many

    def __len__(self) -> int:
        """How many have been taken in."""
        return self._count

    @property
    def chunks(self) -> Sequence[Chunk]:
        """What has been taken in, the oldest first."""
        return tuple(self._chunks)

    def drop(self, chunk: Chunk) -> None:
        """Forget a chunk: its rows are out of the table, or will be looked for otherwise."""
        self._chunks.remove(chunk)
        self._count -= len(chunk)

    def keys(self) -> Iterator[bytes]:
        """All that have been taken in, as the table has them; a set of them takes eight times the memory."""
        return (key for chunk in self._chunks for key in chunk.keys())  # noqa: SIM118 - no mapping
