"""The decoder reads what a server says, and refuses everything else."""

import struct
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox_relay.errors import DecodeError
from outbox_relay.outbox import ROLES
from outbox_relay.pgoutput import BYTEA, POSTGRES_EPOCH_US, UUID, Begin, Commit, Decoder, _in_standard_order
from outbox_relay.row import OutboxRow

STANDARD = (*ROLES, "created_at")
RELATION = 16_387

text = st.binary(max_size=60)
nullable = st.none() | text
nothing = st.just(())
full = st.builds(OutboxRow, text, text, text, text, text, nullable, nullable, nothing)
rows = full | st.builds(OutboxRow, *[nullable] * len(ROLES), nothing)
layouts = st.permutations([*STANDARD, "extra"]) | st.just(list(STANDARD)) | st.just(list(ROLES))


def relation(columns, schema="public", table="outbox", relation_id=RELATION, payload_type=114, id_type=UUID):
    types = {"payload": payload_type, "id": id_type}
    described = b"".join(
        b"\0" + name.encode() + b"\0" + struct.pack(">Ii", types.get(name, 25), -1) for name in columns
    )
    names = schema.encode() + b"\0" + table.encode() + b"\0"
    return b"R" + struct.pack(">I", relation_id) + names + b"d" + struct.pack(">H", len(columns)) + described


def type_(oid, name, schema=""):
    """A domain, by the type under it."""
    return b"Y" + struct.pack(">I", oid) + schema.encode() + b"\0" + name.encode() + b"\0"


def insert(values, relation_id=RELATION):
    values = values[: len(ROLES)] if isinstance(values, OutboxRow) else values
    columns = b"".join(b"n" if v is None else b"t" + struct.pack(">I", len(v)) + v for v in values)
    return b"I" + struct.pack(">I", relation_id) + b"N" + struct.pack(">H", len(values)) + columns


def values_in(layout, row):
    by_name = dict(zip(ROLES, row, strict=False)) | {"created_at": b"2026-11-23 10:00:00+00", "extra": None}
    return [by_name[name] for name in layout]


def decoder_of(layout):
    decoder = Decoder()
    assert decoder.decode(relation(layout)) is None
    return decoder


@given(rows, layouts)
def test_a_row_comes_out_as_it_went_in_wherever_its_columns_stand(row, layout):
    assert decoder_of(layout).decode(insert(values_in(layout, row))) == row


def nobody(message):
    raise AssertionError(f"left to the slow way: {message!r}")


@given(full, st.lists(nullable, max_size=3))
def test_a_row_in_the_usual_order_is_read_in_one_pass(row, trailing):
    decode = _in_standard_order(len(ROLES) + len(trailing), otherwise=nobody)
    assert decode(insert([*row[: len(ROLES)], *trailing])) == row


@given(full, st.sampled_from(range(5)), st.sampled_from(b"ub"))
def test_a_column_that_is_no_text_is_left_to_the_slow_way(row, place, kind):
    message = bytearray(insert(row))
    message[8 + sum(5 + len(value) for value in row[:place])] = kind
    assert _in_standard_order(len(ROLES), otherwise=lambda _: "slow")(bytes(message)) == "slow"


@given(full, st.integers(0, 20))
def test_a_row_with_another_number_of_columns_is_left_to_the_slow_way(row, count):
    message = bytearray(insert(row))
    message[6:8] = struct.pack(">H", count)
    decode = _in_standard_order(len(ROLES), otherwise=lambda _: "slow")
    assert decode(bytes(message)) == (row if count == len(ROLES) else "slow")


def test_what_the_protocol_and_the_server_call_by_number():
    assert (BYTEA, UUID) == (17, 2950)  # pg_type.oid
    assert datetime.fromtimestamp(POSTGRES_EPOCH_US / 1e6, UTC) == datetime(2000, 1, 1, tzinfo=UTC)
    assert POSTGRES_EPOCH_US % 1_000_000 == 0


def test_a_complaint_shows_the_beginning_of_the_message():
    message = insert([b"x" * 100])[:60]
    with pytest.raises(DecodeError) as refused:
        decoder_of(STANDARD).decode(message)
    said = f"pgoutput message 'I' of 60 bytes is truncated or malformed: {message[:48].hex(' ')}"
    assert str(refused.value) == said


@given(rows, layouts)
def test_a_row_cut_off_at_any_byte_is_refused(row, layout):
    decoder = decoder_of(layout)
    message = insert(values_in(layout, row))
    for length in range(len(message)):
        with pytest.raises(DecodeError):
            decoder.decode(message[:length])
    with pytest.raises(DecodeError):
        decoder.decode(message + b"\0")


@given(rows, st.data())
def test_a_row_with_flipped_bytes_is_refused_or_is_a_row(row, data):
    message = bytearray(insert(values_in(STANDARD, row)))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(5, len(message) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        assert isinstance(decoder_of(STANDARD).decode(bytes(message)), OutboxRow)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_means_nothing(noise):
    with suppress(DecodeError):
        assert not isinstance(decoder_of(STANDARD).decode(noise), OutboxRow)


@given(st.permutations(STANDARD))
def test_a_relation_cut_off_at_any_byte_is_refused(layout):
    message = relation(layout)
    for length in range(1, len(message)):
        with pytest.raises(DecodeError):
            Decoder().decode(message[:length])


def test_begin_and_commit_carry_position_and_time():
    begin = b"B" + struct.pack(">QqI", 0x1_0000_0010, 5_000_000, 777)
    commit = b"C" + struct.pack(">BQQq", 0, 0x1_0000_0010, 0x1_0000_0040, 5_000_000)
    assert Decoder().decode(begin) == Begin(0x1_0000_0010, POSTGRES_EPOCH_US + 5_000_000)
    assert Decoder().decode(commit) == Commit(0x1_0000_0040)
    for message in (begin, commit):
        for length in range(len(message)):
            with pytest.raises(DecodeError):
                Decoder().decode(message[:length])


@given(st.binary(max_size=60) | st.none(), layouts)
def test_bytes_come_out_as_they_went_in(payload, layout):
    digits = b"\\x" + payload.hex().encode() if payload is not None else None
    row = OutboxRow(b"i", b"t", b"a", b"e", digits)
    decoder = Decoder()
    assert decoder.decode(type_(99_999, "bytea")) is None
    for payload_type in (BYTEA, 99_999):
        decoder.decode(relation(layout, payload_type=payload_type))
        assert decoder.decode(insert(values_in(layout, row))) == row._replace(payload=payload)


def test_text_of_a_type_that_is_none_of_postgresqls_comes_out_as_it_went_in():
    decoder = Decoder()
    decoder.decode(type_(99_998, "text"))
    decoder.decode(type_(99_999, "bytea", schema="shop"))
    row = OutboxRow(b"i", b"t", b"a", b"e", b"\\x00")
    for payload_type in (99_997, 99_998, 99_999):
        decoder.decode(relation(ROLES, payload_type=payload_type))
        assert decoder.decode(insert(row)) == row


def test_ids_are_uuids_or_not_as_the_log_says():
    decoder = Decoder()
    decoder.decode(type_(99_998, "uuid"))
    decoder.decode(type_(99_999, "int8"))
    told = []
    for id_type in (20, UUID, 99_999, 99_998, 25):
        decoder.decode(relation(STANDARD, id_type=id_type))
        told.append(decoder.has_uuids)
        decoder.decode(relation(STANDARD, table="other", relation_id=9, id_type=23 if told[-1] else UUID))
        assert decoder.has_uuids is told[-1]
    assert told == [False, True, False, True, False]


def test_a_type_cut_off_at_any_byte_is_refused():
    message = type_(99_999, "bytea", schema="shop")
    for length in range(1, len(message)):
        with pytest.raises(DecodeError):
            Decoder().decode(message[:length])
    with pytest.raises(DecodeError):
        Decoder().decode(message + b"\0")


@pytest.mark.parametrize("payload", [b"\\000", b"", b"\\x0", b"\\xgg"])
def test_bytes_that_are_written_otherwise_are_refused(payload):
    decoder = Decoder()
    decoder.decode(relation(ROLES, payload_type=BYTEA))
    with pytest.raises(DecodeError):
        decoder.decode(insert(OutboxRow(b"i", b"t", b"a", b"e", payload)))


def test_a_missing_column_is_named_and_its_rows_are_left_to_whoever_reads_the_table():
    layout = [name for name in STANDARD if name not in ("payload", "tracestate")]
    decoder = Decoder()
    decoder.decode(relation(layout))
    assert decoder.incomplete == "payload"
    assert decoder.decode(insert(values_in(layout, OutboxRow(b"i", b"t", b"a", b"e", None)))) is None
    decoder.decode(relation(STANDARD))
    assert decoder.incomplete is None


def test_an_outbox_without_tracestate_is_read():
    layout = [name for name in STANDARD if name != "tracestate"]
    row = OutboxRow(b"i", b"t", b"a", b"e", b"{}", b"00-ab-cd-01")
    assert decoder_of(layout).decode(insert(values_in(layout, row))) == row


def test_columns_that_are_added_later_move_the_others():
    decoder = decoder_of(STANDARD)
    row = OutboxRow(b"i", b"t", b"a", b"e", b"{}")
    later = ["extra", *STANDARD]
    decoder.decode(relation(later))
    assert decoder.decode(insert(values_in(later, row))) == row


def test_other_tables_and_other_messages_are_skipped():
    decoder = decoder_of(STANDARD)
    decoder.decode(relation(["a"], table="other", relation_id=9))
    assert decoder.decode(insert([b"x"], relation_id=9)) is None
    assert [decoder.decode(kind + b"whatever") for kind in (b"O", b"M", b"U", b"D", b"T")] == [None] * 5


def test_what_was_not_announced_or_is_unknown_is_refused():
    with pytest.raises(DecodeError, match="not announced"):
        Decoder().decode(insert([b"x"]))
    with pytest.raises(DecodeError, match="unknown kind"):
        Decoder().decode(b"?")
    with pytest.raises(DecodeError, match="empty"):
        Decoder().decode(b"")


def test_a_table_with_only_the_required_columns_is_read():
    decoder = decoder_of(ROLES[:5])
    assert decoder.incomplete is None
    row = [b"1", b"account", b"acc-1", b"T", b"{}"]
    assert decoder.decode(insert(row)) == OutboxRow(*row)


def test_a_row_of_a_relation_that_was_not_announced_names_it():
    with pytest.raises(DecodeError, match=rf"for relation {0x01020304},"):
        decoder_of(STANDARD).decode(insert([b"x"], relation_id=0x01020304))


@pytest.mark.parametrize("names", [{"schema": ""}, {"table": ""}, {"columns": ["", *STANDARD]}])
def test_an_empty_name_is_a_name(names):
    """PostgreSQL sends that of its own schema so."""
    decoder = Decoder()
    about = {"columns": list(STANDARD), "schema": "public", "table": "outbox"} | names
    assert decoder.decode(relation(**about)) is None
    row = OutboxRow(b"1", b"account", b"acc-1", b"T", b"{}", None, None)
    found = decoder.decode(insert([None] * ("columns" in names) + values_in(STANDARD, row)))
    assert found == (row if "columns" in names else None)
