"""Entries of a fixed size on disk, spread evenly over buckets by the message ID that each begins with.

Two such sets are compared bucket by bucket, as in a Grace hash join: what is held in memory is one bucket of each,
however many entries there are.
"""

from array import array
from collections.abc import Iterator
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

BUCKETS = 1024
"""A power of two; of a hundred million entries each bucket has a hundred thousand."""

PAGE_ENTRIES = 128
"""Entries of a bucket that are buffered in memory and written at once: some 6 MB in all."""

ID_BYTES = 16


class Spill:
    """A set of entries in a temporary file (in ``TMPDIR``) that is removed at the end of the block.

    Args:
        entry_bytes: the size of an entry.
    """

    def __init__(self, entry_bytes: int) -> None:
        self._page_bytes = PAGE_ENTRIES * entry_bytes
        self._buffers = [bytearray() for _ in range(BUCKETS)]
        self._pages = [array("Q") for _ in range(BUCKETS)]
        self._written = 0
        self._file = TemporaryFile(prefix="settle-audit-")  # noqa: SIM115 # closed in __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, entry: bytes) -> None:
        """Add an entry.

        Raises:
            OSError: there is no room for it.
        """
        # Python's hash of bytes is keyed per process: nobody can choose IDs that all fall into one bucket.
        number = hash(entry[:ID_BYTES]) & (BUCKETS - 1)
        buffer = self._buffers[number]
        buffer += entry
        if len(buffer) == self._page_bytes:
            self._pages[number].append(self._written)
            self._written += self._file.write(buffer)
            buffer.clear()

    def bucket(self, number: int) -> bytes:
        """The entries of a bucket, one after the other."""
        return b"".join(self._read(number))

    def _read(self, number: int) -> Iterator[bytes]:
        for start in self._pages[number]:
            self._file.seek(start)
            yield self._file.read(self._page_bytes)
        yield bytes(self._buffers[number])
