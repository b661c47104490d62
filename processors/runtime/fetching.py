"""How a consumer fetches: little of each partition at a time, and not more ahead than is soon taken."""

from broker.security import Properties

FETCH_WAIT_S = 0.5
"""How long a broker keeps a fetch while nothing comes."""

FETCH_BYTES = 128 * 1024
"""Of a partition in one fetch response; more where a single record batch is larger."""

FETCH_BYTES_ALL = 16 * 1024 * 1024
"""Of all partitions in one fetch response."""

AHEAD_KIB = 16 * 1024
"""Bytes of prefetched bodies; under full load 8,000 of them have 4 MB."""


def fetching(batch_max: int) -> Properties:
    """The properties by which a consumer fetches.

    Args:
        batch_max: records in a batch at the most.
    """
    return {
        # librdkafka counts all prefetched records, of any partition. At the limit it fetches only some
        # partitions, and at a low rate would wait half a second for them: so the limit is at least a batch
        # and reached by a backlog alone.
        "queued.min.messages": batch_max,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": int(FETCH_WAIT_S * 1_000),
        # Small fetches per partition rather than all of one: of a backlog, messages of the same
        # withdrawals are then handled in the same batch, and less is held in memory.
        "fetch.message.max.bytes": FETCH_BYTES,
        # Whatever producers compress: fetched bytes are bounded, and so are the decompressed (zstd's are).
        "fetch.max.bytes": FETCH_BYTES_ALL,
        "receive.message.max.bytes": 2 * FETCH_BYTES_ALL,
        "queued.max.messages.kbytes": AHEAD_KIB,
    }
