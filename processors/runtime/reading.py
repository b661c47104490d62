"""How far a consumer has read its partitions, and whether it can read them at all."""

import time
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from broker.answers import REQUEST_S, answer
from broker.clients import admin
from broker.offsets import END, FIRST, Place
from broker.security import KafkaSettingsError
from broker.troubles import denied
from processors.runtime.membership import has_no_partition

ANSWER_S = 1.0
# To connect and to find leaders is up to sixteen round trips: a client without an answer is kept for so long.
CONNECTS_S_MAX = 10.0


class Reading:
    """What a consumer knows, and what Kafka says, of the partitions that it is assigned.

    Calls belong on the consumer's thread, as its own do. A broker answers the requests of a connection one after
    the other, and an idle consumer's fetch takes half a second: so the leaders are asked by a client of its own.

    Args:
        bootstrap: ``host:port`` of brokers, comma-separated.
        consumer: whose partitions these are.
    """

    def __init__(self, bootstrap: str, consumer: Consumer) -> None:
        self._bootstrap = bootstrap
        self._consumer = consumer
        self._asks: AdminClient | None = None
        self._is_stale = False
        self._answered_at = 0.0
        self._silent: Place | None = None
        self._turn = 0

    def lag(self, reached: Mapping[Place, int], *, ask_kafka: bool) -> dict[str, int]:
        """Records that have not been taken yet, by topic.

        Args:
            reached: where the next record of a partition is, of those that something was taken from.
            ask_kafka: query the end offsets, and where the group stands in partitions that nothing was taken from
                yet; otherwise what the last fetches told, which costs nothing, and is old while none is made.

        Raises:
            KafkaException: it does not answer.
            KafkaSettingsError: no client can be made to ask it.
        """
        behind: dict[str, int] = {}
        at = {(one.topic, one.partition): one for one in self._consumer.position(self._consumer.assignment())}
        ends = self._offsets(list(at), END) if ask_kafka else self._fetched(list(at))
        unread = [place for place, one in at.items() if one.offset < 0 and place not in reached]
        began = self._began(unread) if ask_kafka and unread else {}
        for place, one in at.items():
            next_offset = max(one.offset, reached.get(place, one.offset), began.get(place, one.offset))
            left = ends[place] - next_offset if ends[place] > next_offset >= 0 else 0
            behind[one.topic] = behind.get(one.topic, 0) + left
        return behind

    def _fetched(self, places: Sequence[Place]) -> dict[Place, int]:
        """The end offsets as the last fetches told them."""
        asked = self._consumer.get_watermark_offsets
        return {place: asked(TopicPartition(*place), cached=True)[1] for place in places}

    def _began(self, unread: Sequence[Place]) -> dict[Place, int]:
        """Where the group begins to read partitions that nothing was taken from yet."""
        first, confirmed = self._offsets(unread, FIRST), self.confirmed(unread)
        return {place: max(first[place], confirmed[place]) for place in unread}

    def _offsets(self, places: Sequence[Place], which: OffsetSpec) -> dict[Place, int]:
        if not places:
            return {}
        asked = {TopicPartition(*place): which for place in places}
        until = time.monotonic() + ANSWER_S
        found = self._client().list_offsets(asked, request_timeout=REQUEST_S)
        try:
            offsets = {
                (one.topic, one.partition): answer(future, max(0.0, until - time.monotonic())).offset
                for one, future in found.items()
            }
        except KafkaException as error:
            is_silent = error.args[0].code() == KafkaError._TIMED_OUT
            # It may not know of a partition that was added since it learned of the topic.
            self._is_stale = not is_silent or time.monotonic() - self._answered_at > CONNECTS_S_MAX
            raise
        self._answered_at = time.monotonic()
        return offsets

    def _client(self) -> AdminClient:
        """What asks: a new one where the one before is stale, which stays until there is one."""
        if self._asks is None or self._is_stale:
            try:
                self._asks, self._is_stale = admin(self._bootstrap, {"reconnect.backoff.max.ms": 1_000}), False
                self._answered_at = time.monotonic()
            except KafkaSettingsError:
                if self._asks is None:
                    raise
        return self._asks

    def confirmed(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offsets that the group has committed; 0 where it has none.

        Raises:
            KafkaException: Kafka does not answer.
        """
        found = {}
        for place in self._consumer.committed([TopicPartition(*one) for one in places], ANSWER_S):
            if place.error is not None:
                raise KafkaException(place.error)
            found[place.topic, place.partition] = max(place.offset, 0)  # below zero: nothing yet
        return found

    def what_is_silent(self) -> str | None:
        """A partition whose leader does not answer, as text; None if there is none.

        One of them is asked, each in turn: that another broker knows the topics says nothing of theirs. A leader
        may just be moving, so it is one that is silent twice.
        """
        places = [(one.topic, one.partition) for one in self._consumer.assignment()]
        if not places:
            self._silent = None
            return None
        if (place := self._silent) is None or place not in places:
            self._turn += 1
            place = places[self._turn % len(places)]
        try:
            self._offsets([place], END)
        except KafkaException as error:
            is_again, self._silent = self._silent == place, place
            topic, partition = place
            return f"{topic}/{partition} cannot be read: its leader: {error.args[0].str()}" if is_again else None
        except KafkaSettingsError as error:
            return f"Kafka cannot be asked: {error}"
        self._silent = None
        return None

    def is_spare(self, group: str) -> bool:
        """Whether its group, of protocol ``consumer``, has admitted the consumer and has no partition for it.

        librdkafka calls no ``on_assign`` then; with ``classic`` it does. False as well while Kafka does not tell.
        """
        try:
            asked = self._client().describe_consumer_groups([group], request_timeout=REQUEST_S)
            members = answer(asked[group], ANSWER_S).members
        except (KafkaException, KafkaSettingsError):
            return False
        own = self._consumer.memberid()
        return any(one.member_id == own and has_no_partition(one) for one in members)


def what_cannot_be_read(errors: Mapping[str, KafkaError | None]) -> str | None:
    """The topics that are missing or not to be had, as text; None where all can be read."""
    wrong = {topic: error for topic, error in errors.items() if error is not None}
    missing = [topic for topic, error in wrong.items() if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART]
    if missing:
        return f"topics that do not exist: {', '.join(missing)}; `settle topics` creates them"
    return (
        "; ".join(
            f"topic {topic} cannot be read: {denied(error) or error.str()}" for topic, error in wrong.items()
        )
        or None
    )
