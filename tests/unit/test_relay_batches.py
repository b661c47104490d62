"""What the relay asks for of rows whose contents it does not need, or that it reads by their bytes."""

from outbox_relay.batches import select_places
from outbox_relay.columns import Column
from outbox_relay.outbox import ROLES, Additional, Outbox
from outbox_relay.table import Table, by_id, select_rows

TENANT = Additional("tenant")


def table():
    columns = {role: Column(role, "text") for role in ROLES} | {TENANT: Column("tenant", "bytea")}
    return Table(Outbox(additional=(TENANT,)), columns)


def text(query):
    return query.as_string(None)


def test_where_rows_lie_is_asked_with_their_bytes_and_not_their_contents():
    one = table()
    asked = text(select_places(one, by_id(one), one.unpublished))
    assert '(coalesce(octet_length("payload"::text), 0) + coalesce(octet_length("tenant"), 0))::int8' in asked
    assert 'textsend("payload"' not in asked


def test_rows_without_their_contents_have_as_many_columns():
    one = table()
    with_contents, without = (
        text(select_rows(one, by_id(one), with_contents=with_contents)) for with_contents in (True, False)
    )
    assert '"payload"' in with_contents
    assert '"payload"' not in without
    assert '"tenant"' not in without
    assert without.count(",") == with_contents.count(",") == one.values
