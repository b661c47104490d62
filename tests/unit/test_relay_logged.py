"""Messages of the log become rows of their outbox, whatever somebody wrote into them."""

import json
import struct

import pytest

from outbox_relay.errors import DecodeError
from outbox_relay.logged import decoder
from outbox_relay.outbox import Additional, ColumnNames, Outbox
from outbox_relay.row import OutboxRow

ID = "01a20aeb-4358-716a-b291-9134760df1f7"
CONTENT = {
    "id": ID,
    "aggregatetype": "order",
    "aggregateid": "k",
    "type": "Placed",
    "payload": {"a": "é", "b": None},
}


def message(content, *, prefix="shop", transactional=True):
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    begin = struct.pack(">cBQ", b"M", transactional, 7)
    return begin + prefix.encode() + b"\0" + struct.pack(">I", len(content)) + content


def row(content, *, uuids=True, **outbox):
    return decoder(Outbox(messages="shop", **outbox), uuids=uuids)(message(content))


def test_a_message_is_a_row_and_its_payload_compact_json():
    assert row(CONTENT) == OutboxRow(
        ID.encode(), b"order", b"k", b"Placed", '{"a":"é","b":null}'.encode(), None, None, ()
    )


def test_a_payload_that_is_text_stays_as_it_is():
    assert row(CONTENT | {"payload": '{"x" :  1}'}).payload == b'{"x" :  1}'
    assert row(CONTENT | {"payload": None}).payload is None


def test_columns_have_the_names_that_the_outbox_gives_them():
    names = ColumnNames(id="event", aggregateid=None, tracestate=None)
    additional = (Additional("flag"), Additional("n"), Additional("none"))
    content = CONTENT | {"event": ID.upper(), "traceparent": "00-a", "flag": True, "n": 1.5}
    found = row(content, columns=names, additional=additional)
    assert (found.id, found.aggregate_id, found.traceparent) == (ID.encode(), None, b"00-a")
    assert found.additional == (b"t", b"1.5", None)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff", b'{"id": "\\ud800"}', b"[" * 100_000])
def test_a_content_that_is_no_object_is_a_row_without_an_id(content):
    assert row(content) == OutboxRow(None, None, None, None, content)


def test_an_id_is_a_uuid_where_those_of_the_table_are():
    assert row(CONTENT | {"id": 7}).id is None
    assert row(CONTENT | {"id": 7}, uuids=False).id == b"7"


def test_messages_of_others_are_none_of_it():
    decode = decoder(Outbox(messages="shop"), uuids=True)
    for other in ("shop2", "sho", "settle-relay", ""):
        assert decode(message(CONTENT, prefix=other)) is None
    assert decode(message(CONTENT, transactional=False)) is None


@pytest.mark.parametrize("cut", [5, 12, 17, 40])
def test_a_message_that_breaks_the_protocol_is_said(cut):
    with pytest.raises(DecodeError):
        decoder(Outbox(messages="shop"), uuids=True)(message(CONTENT)[:cut])
