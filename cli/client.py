"""The Kafka client of a command, traced as ``settle-producer`` where tracing is configured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli import settings

if TYPE_CHECKING:
    from producers.client import WithdrawalClient


@contextmanager
def open_client(data: Path | None, *, linger_ms: float | None = None) -> Iterator[WithdrawalClient]:
    """A client of the Kafka that the command is to use; spans are sent before this returns.

    Args:
        data: folder of the stack to use, if one was named.
        linger_ms: how long a message waits for company, milliseconds.
    """
    import tracing
    from producers.client import LINGER_MS, WithdrawalClient
    from producers.settings import ProducerSettings

    timeout_s = ProducerSettings().delivery_timeout_s
    tracing.configure("producer")
    try:
        with WithdrawalClient(
            settings.kafka_bootstrap(data), delivery_timeout_s=timeout_s, linger_ms=linger_ms or LINGER_MS
        ) as client:
            yield client
    finally:
        tracing.shutdown()
