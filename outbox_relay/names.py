"""What people call a source, and what an error says in one line."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from contracts.dsn import effective
from outbox_relay.outbox import OUTBOX, Outbox
from outbox_relay.source_settings import SourceSettings


def source_name(dsn: str, outbox: Outbox = OUTBOX) -> str:
    """What people call a source: the database, the table where it is not ``public.outbox``, and which share."""
    parameters = effective(dsn)
    database = parameters.get("dbname") or parameters.get("user") or "postgres"
    whole = database if outbox.is_standard else f"{database}.{outbox.label}"
    return whole if outbox.share is None else f"{whole}-{outbox.share.number}"


def name_of(source: SourceSettings) -> str:
    """The name that a source has, or else what people would call it."""
    return source.name or source_name(source.dsn, source.outbox)


def named(each: Sequence[SourceSettings]) -> tuple[SourceSettings, ...]:
    """The same sources, each with a name of its own."""
    names = [name_of(one) for one in each]
    times = Counter(names)
    # The same database name on several servers: number them in the order given.
    return tuple(
        replace(one, name=name if times[name] == 1 else f"{name}-{names[: place + 1].count(name)}")
        for place, (one, name) in enumerate(zip(each, names, strict=True))
    )


def one_line(error: Exception) -> str:
    """What an error says, without what follows its first line."""
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0]
