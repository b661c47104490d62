"""Whether Kafka takes this relay: asked before it takes an outbox from others; as a standby, now and then."""

import time
from collections.abc import Callable

from broker.lifeline import why_unanswered
from outbox_relay.errors import KafkaAwayError

# It could publish nothing where Kafka does not answer it: a standby asks so often, and one that got no answer.
STANDBY_ASKS_KAFKA_S = 5.0
# How long the answer may take, of a Kafka that is far away or has thousands of topics.
ANSWER_S = 10.0


class KafkaAsked:
    """Asks for one source.

    Args:
        bootstrap: Kafka.
        is_called_off: asked now and then while Kafka does not answer.
    """

    def __init__(self, bootstrap: str, is_called_off: Callable[[], bool] = lambda: False) -> None:
        self._bootstrap = bootstrap
        self._is_called_off = is_called_off
        self._again_at = 0.0

    def ask(self, *, is_standby: bool) -> None:
        """Check that Kafka takes this relay.

        Raises:
            KafkaAwayError: it does not, or that was called off.
        """
        now = time.monotonic()
        if is_standby and now < self._again_at:
            return
        why = why_unanswered(self._bootstrap, ANSWER_S, self._is_called_off)
        if why is not None:
            raise KafkaAwayError(f"Kafka does not answer, waiting for it: {why}")
        self._again_at = now + STANDBY_ASKS_KAFKA_S
