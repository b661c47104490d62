"""An outbox whose rows a service writes into the log alone, with pg_logical_emit_message."""

import json

from structlog.testing import capture_logs

from outbox_relay.dead import dead_rows
from tests.integration.relay.outbox import header, wait_until
from tests.integration.relay.test_shaped_records import relaying_shaped

EMIT = "SELECT pg_logical_emit_message(%s, %s, %s)"


def relaying_messages(outbox, folder, **settings):
    return relaying_shaped(outbox, folder, None, messages="shop", **settings)


def emit(outbox, row_id, *, connection=None, prefix="shop", transactional=True, payload="{}", key="k"):
    content = {
        "id": row_id,
        "aggregatetype": outbox.name,
        "aggregateid": key,
        "type": "Placed",
        "payload": payload,
    }
    (connection or outbox.connection).execute(EMIT, (transactional, prefix, json.dumps(content)))
    return row_id


def uuid(outbox):
    return outbox.one("SELECT uuidv7()::text")


def test_messages_and_rows_are_published_once_in_the_order_of_commits(outbox, tmp_path):
    ids = []
    for _ in range(3):
        with relaying_messages(outbox, tmp_path):
            outbox.wait_confirmed()
            with outbox.connection.transaction():
                ids += [emit(outbox, uuid(outbox)), outbox.insert("k"), emit(outbox, uuid(outbox))]
            outbox.wait_published(ids)
        ids.append(emit(outbox, uuid(outbox)))  # while nobody reads
    with relaying_messages(outbox, tmp_path):
        outbox.wait_published(ids)
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "rows are removed")
    assert outbox.published() == ids


def test_what_was_not_committed_or_is_of_others_is_not_published(outbox, tmp_path):
    with relaying_messages(outbox, tmp_path):
        outbox.wait_confirmed()
        with outbox.connection.transaction(force_rollback=True):
            emit(outbox, uuid(outbox))
        emit(outbox, uuid(outbox), transactional=False)
        emit(outbox, uuid(outbox), prefix="others")
        last = emit(outbox, uuid(outbox), payload='{"x" :  1}')
        outbox.wait_published([last])
    (record,) = outbox.records()
    assert (record.key(), record.value(), header(record, "eventType")) == (b"k", b'{"x" :  1}', "Placed")


def test_a_message_that_is_no_row_is_quarantined_and_the_next_are_published(outbox, tmp_path):
    with relaying_messages(outbox, tmp_path):
        outbox.wait_confirmed()
        outbox.connection.execute(EMIT, (True, "shop", "no JSON"))
        emit(outbox, "no UUID")
        outbox.wait_published([emit(outbox, uuid(outbox))])
        wait_until(lambda: len(dead_rows(outbox.connection)) == 2, "two are quarantined")
    reasons = [dead.reason for dead in dead_rows(outbox.connection)]
    assert reasons == [
        "aggregatetype is NULL, which makes no topic name",
        "id is NULL, so nobody could tell a repeat",
    ]
    assert outbox.one("SELECT payload FROM outbox_dead ORDER BY number LIMIT 1") == b"no JSON"


def test_a_lost_slot_loses_messages_but_no_rows_and_that_is_said(outbox, tmp_path):
    with relaying_messages(outbox, tmp_path):
        outbox.wait_confirmed()
        first = emit(outbox, uuid(outbox))
        outbox.wait_published([first])
    emit(outbox, uuid(outbox))
    row_id = outbox.insert("k")
    outbox.drop_slot()
    with capture_logs() as logs, relaying_messages(outbox, tmp_path):
        outbox.wait_published([row_id])
        last = emit(outbox, uuid(outbox))
        outbox.wait_published([last])
    assert outbox.published() == [first, row_id, last]
    assert any("messages of the log from before the slot are not published" in str(line) for line in logs)


def test_a_poll_finds_no_messages_and_says_so(outbox, tmp_path):
    with capture_logs() as logs, relaying_messages(outbox, tmp_path, reader="polling"):
        wait_until(lambda: any("no poll finds them" in str(line) for line in list(logs)), "it is said")
