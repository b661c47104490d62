"""The IDs of rows that need not be published any more, kept until those rows are out of the table.

A row is removed because *its* ID is here: Kafka has acknowledged it, or its topic was found to hold it. That the
log went past a row proves nothing, as the log may have gone past without bringing it.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

UUID_BYTES = 16
# Most that is kept; of what is forgotten beyond it, the topics are asked.
IDS_MAX = 5_000_000


@dataclass(eq=False)
class Chunk:
    """Some IDs, in the order in which they were handled.

    Attributes:
        ids: 16 bytes each where they are UUIDs, else one by one.
        missing: how many of their rows were not seen in the table yet.
        looks: how often it was looked for them.
    """

    ids: bytes | list[bytes]
    missing: int = field(init=False)
    looks: int = 0

    def __post_init__(self) -> None:
        self.missing = len(self)

    def __len__(self) -> int:
        return len(self.ids) // UUID_BYTES if isinstance(self.ids, bytes) else len(self.ids)

    def as_parameter(self) -> str | list[bytes]:
        """All of them as PostgreSQL takes an array: of UUIDs, or of the bytes of texts."""
        if isinstance(self.ids, bytes):
            return "{" + self.ids.hex(",", UUID_BYTES) + "}"
        return self.ids

    def texts(self) -> Iterable[bytes]:
        """Each as the table has it, as text."""
        if not isinstance(self.ids, bytes):
            return self.ids
        starts = range(0, len(self.ids), UUID_BYTES)
        return (str(UUID(bytes=self.ids[at : at + UUID_BYTES])).encode() for at in starts)


class Handled:
    """IDs on their way from the thread that publishes to the one that removes.

    Args:
        uuids: whether all IDs are UUIDs in PostgreSQL's way of writing them.
    """

    def __init__(self, *, uuids: bool) -> None:
        self.uuids = uuids
        self._incoming: deque[tuple[Sequence[bytes | None], Sequence[bytes | list[bytes]]]] = deque()
        self._chunks: deque[Chunk] = deque()
        self._count = 0

    # Called by the thread that publishes.

    def add(self, ids: Sequence[bytes | None], packed: Sequence[bytes | list[bytes]] = ()) -> None:
        """These need not be published any more: some as text, some as :meth:`pack` made of them."""
        self._incoming.append((ids, packed))

    def pack(self, ids: Sequence[bytes | None]) -> bytes | list[bytes]:
        """IDs, given as text, in as little memory as may be; rows without one are known otherwise."""
        known = [row_id for row_id in ids if row_id is not None]
        if not self.uuids:
            return known
        return bytes.fromhex(b"".join(known).replace(b"-", b"").decode())

    # Called by the thread that removes.

    def gather(self, chunk_ids: int) -> None:
        """Take in what was added since, in chunks of so many; forget the oldest where there are too many."""
        texts: list[bytes | None] = []
        packed: list[bytes | list[bytes]] = []
        while self._incoming:
            ids, parts = self._incoming.popleft()
            texts += ids
            packed += parts
        packed.append(self.pack(texts))
        together = b"".join(packed) if self.uuids else [row_id for part in packed for row_id in part]  # type: ignore[arg-type]
        size = chunk_ids * (UUID_BYTES if self.uuids else 1)
        for at in range(0, len(together), size):
            self._chunks.append(chunk := Chunk(together[at : at + size]))  # type: ignore[arg-type]
            self._count += len(chunk)
        while self._count > IDS_MAX:
            self.drop(self._chunks[0])

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

    def texts(self) -> set[bytes]:
        """All that have been taken in, as text."""
        return {text for chunk in self._chunks for text in chunk.texts()}
