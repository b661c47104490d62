"""The forwarder: what Kafka has when a slot can be read no further, and by which keys rows are removed."""

from itertools import cycle
from types import SimpleNamespace

import pytest

from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.errors import PublicationMissingError
from outbox_relay.handled import Handled
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
        SimpleNamespace(decode=lambda event: event, incomplete=None, has_uuids=True),
        Acknowledgements(Origin(b"0", 90, 0)),
        publisher,
        lambda row, transaction, delivered: reports.append(delivered),
        lambda row, transaction, delivered: None,
        source,
    )
    with pytest.raises(PublicationMissingError):
        forwarder.run()
    assert forwarder.is_settled() is answers


class Log:
    """The log as far as it has come: an announcement says whether the IDs that follow are UUIDs."""

    incomplete, has_uuids, wal_end, reply_requested = None, True, 0, False

    def __init__(self, *events):
        self.events = list(events)

    def messages(self):
        while self.events:
            yield self.events.pop(0)

    def decode(self, event):
        if isinstance(event, bool):
            self.has_uuids = event
            return None
        return event

    def wait(self, _):
        return True

    def confirm(self, *_, **__):
        pass


@pytest.mark.parametrize("number", [b"123", b"1234"])
def test_an_id_from_before_ids_were_uuids_is_no_key_of_the_table(number):
    new = b"01a20aeb-4358-716a-b291-9134760df1f7"
    rows = [OutboxRow(row_id, b"t", b"k", b"e", b"{}") for row_id in (number, new)]
    log = Log(False, Begin(100, 0), rows[0], Commit(110), True, Begin(200, 0), rows[1], Commit(210))
    source = undisturbed()
    source.handled = Handled(uuids=True)
    publisher = SimpleNamespace(poll=lambda: None, push=lambda _: None, answered=lambda: None, waiting=0)
    published = []

    def publish(row, _, delivered):
        published.append(row)
        delivered(None, None)

    acks = Acknowledgements(Origin(b"0", 90, 0), handled=source.handled)
    Forwarder(log, log, acks, publisher, publish, publish, source, until_lsn=210).run()
    assert published == rows
    source.handled.gather(100)
    assert [*source.handled.keys()] == [new]


def test_rows_of_a_transaction_are_sent_once_it_is_whole():
    rows = [OutboxRow(b"%d" % number, b"t", b"k", b"e", b"{}") for number in (1, 2)]
    came, handed_over, sent = [[Begin(100, 0), rows[0]], [rows[1]], [Commit(110)], []], [], []
    log, has_patience = Log(), cycle([False, True])

    def wait(_):
        # The next part comes only once it is waited for.
        if is_waited_for := next(has_patience):
            log.events += came.pop(0)
        return is_waited_for

    log.wait = wait

    def publish(row, _, delivered):
        handed_over.append((row, delivered))

    def push(_):
        sent.append([row for row, _ in handed_over])
        for _, delivered in handed_over:
            delivered(None, None)
        handed_over.clear()

    source = undisturbed()
    publisher = SimpleNamespace(poll=lambda: None, push=push, answered=lambda: None, waiting=0)
    Forwarder(
        log, log, Acknowledgements(Origin(b"0", 90, 0)), publisher, publish, publish, source, until_lsn=110
    ).run()
    assert [part for part in sent if part] == [rows]
