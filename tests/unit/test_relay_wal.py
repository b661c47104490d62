"""A slot that can be read no further is given up only once Kafka has what it delivered."""

from types import SimpleNamespace

import pytest

from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.errors import PublicationMissingError
from outbox_relay.pgoutput import Begin, Commit
from outbox_relay.position import Origin
from outbox_relay.row import OutboxRow
from outbox_relay.wal import Forwarder
from tests.unit.forwarded import undisturbed


def ending_stream():
    """One transaction that is whole, and one that cannot be read to its end."""
    yield from (Begin(100, 0), OutboxRow(b"1", b"t", b"k", b"e", b"{}"), Commit(110))
    yield from (Begin(200, 0), OutboxRow(b"2", b"t", b"k", b"e", b"{}"))
    raise PublicationMissingError("no such publication")


@pytest.mark.parametrize("answers", [True, False])
def test_what_came_whole_is_waited_for(answers):
    reports = []
    publisher = SimpleNamespace(poll=lambda: None, waiting=1)
    publisher.push = lambda _: [report(None, None) for report in reports[:1]] if answers else None
    source = undisturbed()
    forwarder = Forwarder(
        SimpleNamespace(messages=ending_stream, wal_end=0),
        SimpleNamespace(decode=lambda event: event, incomplete=None),
        Acknowledgements(Origin(b"0", 90, 0)),
        publisher,
        lambda row, transaction, delivered: reports.append(delivered),
        lambda row, transaction, delivered: None,
        source,
    )
    with pytest.raises(PublicationMissingError):
        forwarder.run()
    assert forwarder.is_settled() is answers
