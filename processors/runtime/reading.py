"""How far a consumer has read its partitions, and whether it can read them at all."""

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaException, TopicPartition

from broker.offsets import Place

ANSWER_S = 1.0


class Reading:
    """What a consumer knows, and what Kafka says, of the partitions that it is assigned.

    Calls belong on the consumer's thread, as its own do.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._silent: Place | None = None
        self._turn = 0

    def lag(self, reached: Mapping[Place, int], *, ask_kafka: bool) -> dict[str, int]:
        """Records that have not been taken yet, by topic.

        Args:
            reached: where the next record of a partition is, of those that something was taken from.
            ask_kafka: query the end offsets, and where the group stands in partitions that nothing was taken from
                yet; otherwise what the last fetches told, which costs nothing, and is old while none comes.

        Raises:
            KafkaException: it does not answer.
        """
        behind: dict[str, int] = {}
        places = self._consumer.position(self._consumer.assignment())
        unread = [one for one in places if one.offset < 0 and (one.topic, one.partition) not in reached]
        began = self.confirmed(unread) if ask_kafka and unread else {}
        for place in places:
            if ask_kafka:
                low, high = self._consumer.get_watermark_offsets(place, timeout=ANSWER_S)
            else:
                low, high = self._consumer.get_watermark_offsets(place, cached=True)
            at = (place.topic, place.partition)
            next_offset = max(place.offset, reached.get(at, place.offset))
            if at in began:
                next_offset = max(low, began[at])
            left = high - next_offset if high > next_offset >= 0 else 0
            behind[place.topic] = behind.get(place.topic, 0) + left
        return behind

    def confirmed(self, places: Sequence[TopicPartition]) -> dict[Place, int]:
        """The offsets that the group has committed; 0 where it has none.

        Raises:
            KafkaException: Kafka does not answer.
        """
        found = {}
        for place in self._consumer.committed(
            [TopicPartition(one.topic, one.partition) for one in places], ANSWER_S
        ):
            if place.error is not None:
                raise KafkaException(place.error)
            found[place.topic, place.partition] = max(place.offset, 0)  # below zero: nothing yet
        return found

    def what_is_silent(self, timeout_s: float) -> str | None:
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
            self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=timeout_s)
        except KafkaException as error:
            is_again, self._silent = self._silent == place, place
            topic, partition = place
            return f"{topic}/{partition} cannot be read: its leader: {error.args[0].str()}" if is_again else None
        self._silent = None
        return None
