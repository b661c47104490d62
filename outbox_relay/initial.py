"""The rule for rows older than the slot, or than the mark on published rows: which of them to publish.

Where published rows are removed, all that are left, except those on the topics. A table that keeps its rows has
mostly rows that were published long ago, and topics have a retention: there, unless the operator chose, only rows
are published that the topics prove to be unpublished.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Protocol

from outbox_relay.errors import SetupError, UnpublishableError
from outbox_relay.first_batches import murmur2
from outbox_relay.published import NEVER_US, TYPES_MAX, complete_since_us
from outbox_relay.row import OutboxRow
from outbox_relay.source_settings import SourceSettings
from outbox_relay.topic import topic_of

STILL_SET = (
    "the setting initial (SETTLE_RELAY_INITIAL) applies to each slot that is made anew, too: take it out, or it "
    "will say then which rows are published, and not what the topics hold"
)
_UNWANTED = "rows are not published, as the setting initial (SETTLE_RELAY_INITIAL) says"
_OLDER = "rows are not published that are older than what their topics hold"
_UNDECIDED = "rows are not published, as nothing tells whether they were"
_COMPACTED = "its topics are compacted, or lack records between others and do not tell (give DescribeConfigs)"

_FORM = re.compile(r"all|none|since=(\S+)")


class Rule(Protocol):
    """Which rows are to be published."""

    @property
    def skipped(self) -> int:
        """How many rows were not published, as their topic may have deleted their records."""

    @property
    def unwanted(self) -> int:
        """How many rows were not published, as the operator says."""

    @property
    def undecided(self) -> int:
        """How many rows were not published, as it cannot be determined whether they are."""

    @property
    def is_final(self) -> bool:
        """Whether the others need not be published, as the operator says; else they may be unpublished."""

    def wants(self, row: OutboxRow, created_us: int | None, /) -> bool:
        """Whether a row, written at a time (microseconds since the Unix epoch, None: not known), is."""


def rule(
    settings: SourceSettings,
    now_us: int,
    *,
    keeps: bool,
    for_marks: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> Rule:
    """The operator's rule, or else the safe one.

    Args:
        settings: of the source.
        now_us: when the session began, by the database's clock.
        keeps: whether published rows stay in the table.
        for_marks: whether rows may lack a mark alone: those that cannot be decided on are left, and no error.
        meanwhile: callback, called repeatedly while topics are read; may raise to give up.
    """
    if settings.initial is not None:
        return parse(settings.initial)
    if not keeps:
        return Initial(0)
    return IfTopicComplete(settings, now_us, for_marks=for_marks, meanwhile=meanwhile)


class Initial:
    """The operator's rule.

    Args:
        since_us: rows written before were published otherwise, microseconds since the Unix epoch.
    """

    is_final: ClassVar[bool] = True
    skipped: ClassVar[int] = 0
    undecided: ClassVar[int] = 0

    def __init__(self, since_us: int) -> None:
        self.unwanted = 0
        self._since_us = since_us

    def wants(self, _row: OutboxRow, created_us: int | None) -> bool:
        """Whether the row is to be published; where its time is not known, yes, unless none is."""
        is_wanted = self._since_us < NEVER_US and (created_us is None or created_us >= self._since_us)
        self.unwanted += not is_wanted
        return is_wanted


def tell(rule: Rule, warn: Callable[..., None], then: str) -> None:
    """Warn of the rows that a rule has left out.

    Args:
        rule: which has been asked about all rows.
        warn: logs a line, and how many they are.
        then: what follows on the rows that the rule could not decide on.
    """
    if rule.unwanted:
        warn(_UNWANTED, rows=rule.unwanted)
    if rule.skipped:
        warn(f"{_OLDER}{then}", rows=rule.skipped)
    if rule.undecided:
        warn(f"{_UNDECIDED}{then}", rows=rule.undecided)


def parse(text: str) -> Initial:
    """``all``, ``none``, or ``since=`` and a time with its zone, ``since=2026-11-28T10:00:00Z``.

    Raises:
        ValueError: it is none of these.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError("not all, none, or since=2026-11-28T10:00:00Z")
    if form[1] is None:
        return Initial(0 if text == "all" else NEVER_US)
    try:
        since = datetime.fromisoformat(form[1])
    except ValueError:
        raise ValueError(f"{form[1]} is no time such as 2026-11-28T10:00:00Z") from None
    if since.tzinfo is None:
        raise ValueError(f"{form[1]} has no time zone, as in 2026-11-28T10:00:00Z")
    return Initial(int(since.timestamp() * 1e6))


class IfTopicComplete:
    """The rule for a table that keeps its rows, where the operator set none.

    Args:
        settings: of the source.
        now_us: when the session began, by the database's clock: what was written since is published even where
            the topic is empty.
        for_marks: whether rows may lack a mark alone: those that cannot be decided on are left, and no error.
        meanwhile: callback, called repeatedly while topics are read; may raise to give up.

    Attributes:
        skipped: how many rows were not published, as their topic may have deleted their records.
        undecided: how many were not, as it cannot be determined whether they are published.
    """

    is_final: ClassVar[bool] = False
    unwanted: ClassVar[int] = 0

    def __init__(
        self,
        settings: SourceSettings,
        now_us: int,
        *,
        for_marks: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.skipped = self.undecided = 0
        self._for_marks = for_marks
        self._meanwhile = meanwhile
        self._settings = settings
        self._now_us = now_us
        self._complete_since_us: dict[bytes | None, list[int] | None] = {}
        # Else a record's key, or its partition, is not what the row has as it is.
        outbox = settings.outbox
        self._is_by_key = not (outbox.is_shaped or any(one.placement == "partition" for one in outbox.additional))

    def wants(self, row: OutboxRow, created_us: int | None) -> bool:
        """Whether the topic would know the row if it had been published.

        Raises:
            SetupError: the table does not say when rows were written, or the topic not what it held.
            PublishError: the topic does not exist, or Kafka does not answer.
        """
        if row.aggregate_type not in self._complete_since_us:
            try:
                topic = topic_of(row, 0, self._settings.outbox)
            except UnpublishableError:
                return True  # it is quarantined when it is published
            if len(self._complete_since_us) >= TYPES_MAX:
                self._complete_since_us.clear()
            self._complete_since_us[row.aggregate_type] = complete_since_us(
                self._settings.bootstrap, topic, self._meanwhile
            )
        times_us = self._complete_since_us[row.aggregate_type]
        if times_us is None:
            if created_us is not None and created_us >= self._now_us:
                return True
            return self._leave(_COMPACTED)
        key = row.aggregate_id if self._is_by_key else None
        since_us = min(times_us[murmur2(key) % len(times_us)] if key is not None else max(times_us), self._now_us)
        if since_us == 0:
            return True
        if created_us is None or self._settings.outbox.sets_times:
            why = "its records have times of their own" if created_us is not None else "has no created_at"
            return self._leave(f"{why}, and its topics no longer hold all")
        self.skipped += created_us < since_us
        return created_us >= since_us

    def _leave(self, why: str) -> bool:
        """Do not publish a row that cannot be decided on; who may find it unpublished asks a person."""
        if self._for_marks:
            self.undecided += 1
            return False
        raise SetupError(
            f"{self._settings.outbox.label} keeps published rows, {why}: say which rows are to be published: "
            "--initial all or none (SETTLE_RELAY_INITIAL)"
        )
