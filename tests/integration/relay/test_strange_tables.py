"""Outboxes with times, triggers, keys and partitions that nobody would choose; the promises are the same."""

import psycopg
import pytest
from structlog.testing import capture_logs

from outbox_relay import cleaner, published
from outbox_relay.outbox import OUTBOX, Outbox
from outbox_relay.removal import rows_stay
from outbox_relay.table import find_table, oldest_us
from stack import ports
from tests.integration.relay.controlled import command
from tests.integration.relay.outbox import answer, metric, relaying, wait_until
from tests.integration.relay.test_coverage import PARTITIONED, forget, metric_of_look
from tests.integration.relay.test_table import limited_role, relaying_as

# A trigger that refuses, one that ignores, and a foreign key that is looked at when a transaction ends.
REFUSES = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'append only'; END $$;
    CREATE TRIGGER refuse BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION refuse();
"""
IGNORES = """
    CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER ignore BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION ignore();
"""
RESTORES = """
    CREATE FUNCTION restore() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.published_at := OLD.published_at; RETURN NEW; END $$;
    CREATE TRIGGER restore BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION restore();
"""
LETS_GO = """
    CREATE FUNCTION let_go() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;
    CREATE TRIGGER let_go BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION let_go();
"""
REFERS = """
    CREATE TABLE receipts (event uuid REFERENCES outbox DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION receive() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO receipts VALUES (NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER receive AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION receive();
"""
# Publications of deletes whose columns, or whose table's key, do not tell which rows are deleted.
LACKS_KEY = "CREATE PUBLICATION bi FOR TABLE outbox (aggregatetype, payload) WITH (publish = 'insert, delete')"
DEFERS_KEY = """
    ALTER TABLE outbox DROP CONSTRAINT outbox_pkey, ADD PRIMARY KEY (id) DEFERRABLE;
    CREATE PUBLICATION bi FOR TABLE outbox WITH (publish = 'insert, delete');
"""
KEEPS_SOME = IGNORES.replace("FOR EACH ROW", "FOR EACH ROW WHEN (OLD.aggregateid = 'kept')")
UNMARK = "UPDATE outbox SET published_at = NULL"
READS = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"


def lose_marks(outbox):
    """As if the poller had died between the acknowledgement and its commit."""
    with relaying(outbox, reader="polling", cleanup=False):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox WHERE published_at IS NULL") == 0, "marked")
    outbox.connection.execute(UNMARK)


@pytest.mark.parametrize(
    "times",
    [
        "ALTER TABLE outbox DROP COLUMN created_at",
        "ALTER TABLE outbox ALTER created_at SET DEFAULT now() + interval '1 day'",
        "ALTER TABLE outbox ALTER created_at SET DEFAULT 'infinity'",
    ],
)
def test_a_poller_publishes_no_row_twice_that_does_not_say_when_it_was_written(outbox, times, monkeypatch):
    outbox.connection.execute(times)
    lose_marks(outbox)
    # As if the relay had been away for longer than clocks may be apart.
    monkeypatch.setattr(published, "CLOCKS_OFF_US", -1_000_000)
    with relaying(outbox, reader="polling", cleanup=False):
        outbox.wait_published([outbox.insert()])
    assert len(outbox.published()) == 11


@pytest.mark.parametrize("unknown", ["infinity", "-infinity", "2199-01-01", None])
def test_the_oldest_row_is_unknown_if_one_does_not_say_when_it_was_written(outbox, unknown):
    with psycopg.connect(outbox.dsn, autocommit=True) as connection:
        assert oldest_us(connection, find_table(connection)) == 0
        outbox.insert()
        assert oldest_us(connection, find_table(connection)) > 0
        outbox.insert()
        connection.execute("ALTER TABLE outbox ALTER created_at DROP NOT NULL")
        last = "(SELECT id FROM written ORDER BY n DESC LIMIT 1)"
        connection.execute(f"UPDATE outbox SET created_at = %s WHERE id = {last}", (unknown,))
        assert oldest_us(connection, find_table(connection)) == 0


def test_rights_on_a_partitioned_outbox_are_enough_for_a_poller(outbox):
    outbox.connection.execute(PARTITIONED)
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    role = limited_role(outbox, "SELECT, UPDATE, DELETE")
    with relaying_as(role, outbox, reader="polling"):
        outbox.insert_many(100, keys=5)
        outbox.wait_published(outbox.written())
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")
    assert len(outbox.published()) == 100


@pytest.mark.parametrize("trigger", [IGNORES.replace("DELETE", "UPDATE"), RESTORES])
def test_a_poller_whose_marks_are_ignored_says_so_and_publishes_nothing_twice(outbox, trigger):
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")
    outbox.connection.execute(trigger)
    port = ports.choose(taken=set())
    with relaying(outbox, reader="polling", http_port=port):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: "ignores that published_at is set" in answer(port, "/readyz")[1], "it is told")
        wait_until(lambda: "ignores that published_at is set" in answer(port, "/readyz")[1], "it is told")
    assert len(outbox.published()) == 1


@pytest.mark.parametrize("keeps", [REFUSES, IGNORES, REFERS])
def test_a_row_that_cannot_be_removed_is_not_published_again_once_its_topic_has_forgotten_it(
    outbox, keeps, monkeypatch
):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "CLEAN_INTERVAL_S", 0.2)
    outbox.connection.execute(keeps)

    def told(text):
        return any(text in one["event"] for one in said)

    with capture_logs() as said, relaying(outbox):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        outbox.wait_confirmed()
        wait_until(lambda: told("published rows stay in public.outbox"), "the relay says so")
    forget(outbox)
    with capture_logs() as said, relaying(outbox):
        wait_until(lambda: told("older than what their topics hold, and stay in the table"), "it is told")
        outbox.wait_published([outbox.insert()])
    # What the log does not bring is published all the same.
    outbox.connection.execute("ALTER PUBLICATION settle_outbox SET (publish = 'update')")
    late = outbox.insert()
    with relaying(outbox):
        outbox.wait_published([late])
    assert len(outbox.published()) == 2


@pytest.mark.parametrize("reader", ["wal", "polling"])
@pytest.mark.parametrize(
    "keeps",
    [REFUSES, IGNORES, REFERS, LACKS_KEY, DEFERS_KEY],
    ids=["refuses", "ignores", "refers", "publishes no key", "may defer its key"],
)
def test_who_begins_anew_publishes_nothing_again_that_cannot_be_removed(outbox, keeps, reader):
    """A relay that starts, without a slot or with the first poll, has not tried to remove anything yet."""
    outbox.connection.execute(keeps)
    with relaying(outbox):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        outbox.wait_confirmed()
    forget(outbox)
    outbox.drop_slot()
    port = ports.choose(taken=set())
    with relaying(outbox, reader=reader, http_port=port):
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay reads")
        late = outbox.insert()
        outbox.wait_published([late])
    assert outbox.published() == [late]


def forgotten_rows(outbox):
    """Rows that were published, or not, before what their topic holds: one stays, one could be removed."""
    with relaying(outbox, cleanup=False):
        rows = [outbox.insert("kept"), outbox.insert()]
        outbox.wait_published(rows)
        outbox.wait_confirmed()
    forget(outbox)
    outbox.connection.execute(KEEPS_SOME)
    return rows


def are_there(outbox, rows):
    return outbox.one("SELECT count(*) FROM outbox WHERE id = ANY(%s::uuid[])", rows) == len(rows)


@pytest.mark.parametrize("marked", [False, True], ids=["without marks", "with marks"])
def test_rows_before_a_new_slot_that_nobody_can_decide_on_are_neither_published_nor_removed(
    outbox, marked, monkeypatch
):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "CLEAN_INTERVAL_S", 0.2)
    rows = forgotten_rows(outbox)
    outbox.drop_slot()
    if marked:
        outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz")

    def told():
        return any("older than what their topics hold" in one["event"] for one in list(said))

    with capture_logs() as said, relaying(outbox):
        wait_until(lambda: outbox.one(READS, outbox.slot), "what was there before the slot is decided on")
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        for _ in range(2):  # the first one may have begun before
            wait_until(metric_of_look(outbox), "what is handled has been removed or marked")
        assert told()
        if marked:
            left = "SELECT count(*) FROM outbox WHERE published_at = 'infinity'"
            wait_until(lambda: outbox.one(left) == 2, "they are marked as left")
    assert are_there(outbox, rows)
    with capture_logs() as said, relaying(outbox, reader="polling" if marked else "wal"):
        if not marked:
            wait_until(told, "the search tells it, too")
        outbox.wait_published([outbox.insert()])
    assert are_there(outbox, rows)
    assert not set(rows) & set(outbox.published())
    with relaying(outbox, initial="all"):
        outbox.wait_published(rows)


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_rows_older_than_the_mark_that_nobody_can_decide_on_are_not_removed_and_can_be_published(
    outbox, reader, monkeypatch
):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "CLEAN_INTERVAL_S", 0.2)
    rows = forgotten_rows(outbox)
    outbox.connection.execute("ALTER TABLE outbox ADD COLUMN published_at timestamptz DEFAULT '-infinity'")
    outbox.connection.execute("ALTER TABLE outbox ALTER published_at DROP DEFAULT")
    with relaying(outbox, reader=reader):
        for _ in range(2):  # the first one may be removed before the others would be
            late = outbox.insert()
            outbox.wait_published([late])
            wait_until(lambda late=late: not are_there(outbox, [late]), "what is published is removed")
    assert are_there(outbox, rows)
    assert not set(rows) & set(outbox.published())
    with relaying(outbox, reader=reader, initial="all"):
        outbox.wait_published(rows)


@pytest.mark.parametrize("initial", [None, "all"])
@pytest.mark.parametrize(
    ("keeps", "why"),
    [(REFUSES, "append only"), (IGNORES, "published_at is set"), (RESTORES, "published_at is set")],
)
def test_rows_that_cannot_get_the_mark_that_is_decided_on_hold_nothing_up(outbox, keeps, why, initial):
    left = outbox.insert()
    mark = "-infinity" if initial is None else "infinity"
    outbox.connection.execute(f"ALTER TABLE outbox ADD COLUMN published_at timestamptz DEFAULT '{mark}'")
    outbox.connection.execute("ALTER TABLE outbox ALTER published_at DROP DEFAULT")
    outbox.connection.execute(keeps.replace("DELETE", "UPDATE"))
    with capture_logs() as said, relaying(outbox, initial=initial):
        late = outbox.insert()
        outbox.wait_published([late])
    assert [
        one for one in said if "nobody has decided on stay as they are" in one["event"] and why in one["event"]
    ]
    assert outbox.published() == [late]
    assert are_there(outbox, [left])


@pytest.mark.parametrize("slot", ["is lost", "is there"])
def test_rows_that_can_be_removed_by_now_are_not_published_again_for_that(outbox, slot, monkeypatch):
    """A trigger that keeps rows for a month lets the oldest ones go, which their topics have forgotten."""
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "CLEAN_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "AGAIN_AFTER_S", 0.2)
    monkeypatch.setattr(cleaner, "REMOVE_AGAIN_S", 0.0)
    monkeypatch.setattr(cleaner, "HAND_OVER_ROWS", 2)
    with relaying(outbox, cleanup=False):
        rows = [outbox.insert() for _ in range(6)] + [outbox.insert("kept")]
        outbox.wait_published(rows)
        outbox.wait_confirmed()
    forget(outbox)
    outbox.connection.execute(KEEPS_SOME)
    if slot == "is lost":
        outbox.drop_slot()
    with relaying(outbox):
        wait_until(lambda: outbox.one(READS, outbox.slot), "what was there before the slot is decided on")
        for _ in range(2):  # before the first one is removed, nothing may have been tried again
            late = outbox.insert()
            outbox.wait_published([late])
            wait_until(lambda late=late: not are_there(outbox, [late]), "what is published is removed")
            for _ in range(2):  # the first one may have begun before
                wait_until(metric_of_look(outbox), "the table has been searched")
    assert are_there(outbox, rows)
    assert not set(rows) & set(outbox.published())


def test_rows_that_could_not_be_removed_are_once_they_can_be(outbox, monkeypatch):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "CLEAN_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "AGAIN_AFTER_S", 0.2)
    monkeypatch.setattr(cleaner, "REMOVE_AGAIN_S", 0.2)
    outbox.connection.execute(REFUSES)
    with capture_logs() as said, relaying(outbox):
        outbox.wait_published([outbox.insert() for _ in range(10)])
        wait_until(lambda: any("append only" in one["event"] for one in list(said)), "the relay says so")
        outbox.connection.execute("DROP TRIGGER refuse ON outbox")

        def is_removed():
            row_id = outbox.insert()
            outbox.wait_published([row_id])
            for _ in range(2):  # the first one may have begun before
                wait_until(metric_of_look(outbox), "the table has been looked at")
            return not are_there(outbox, [row_id])

        wait_until(is_removed, "one is removed")
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "so are those that stayed")
    outbox.assert_exactly_once_in_order()


def test_that_rows_cannot_be_removed_is_told_once_however_often_a_slot_is_begun(outbox):
    outbox.connection.execute(REFUSES)
    outbox.insert(to="gone")
    port = ports.choose(taken=set())
    with capture_logs() as said, relaying(outbox, http_port=port):
        wait_until(lambda: (metric(port, outbox, "reconnects_total") or 0) >= 2, "it waits for the topic")
    assert len([one for one in said if "published rows stay in public.outbox" in one["event"]]) == 1


MARK = "ALTER TABLE outbox ADD COLUMN published_at timestamptz DEFAULT now()"


def test_marked_rows_whose_removal_is_ignored_are_told_of(outbox):
    with relaying(outbox, cleanup=False):
        outbox.wait_published([outbox.insert() for _ in range(10)] + [outbox.insert("kept")])
        outbox.wait_confirmed()
    outbox.connection.execute(MARK)
    outbox.connection.execute(KEEPS_SOME)
    with capture_logs() as said, relaying(outbox):
        wait_until(lambda: any("ignores that they are deleted" in one["event"] for one in list(said)), "told")
    assert outbox.one("SELECT array_agg(aggregateid) FROM outbox") == ["kept"]


@pytest.mark.parametrize("partitioned", [False, True])
def test_marked_rows_are_removed_whatever_their_id_is(outbox, partitioned):
    if partitioned:
        outbox.connection.execute(PARTITIONED)
    else:
        outbox.connection.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_pkey")
        outbox.connection.execute("ALTER TABLE outbox ALTER id DROP NOT NULL")
    outbox.insert_many(10)
    outbox.connection.execute(MARK)
    if not partitioned:
        outbox.connection.execute("UPDATE outbox SET id = NULL")
    with relaying(outbox):
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "all are removed")
    assert outbox.published() == []


def test_a_skip_that_is_late_is_answered_where_a_row_cannot_be_removed(outbox):
    outbox.connection.execute(REFUSES)
    with relaying(outbox):
        row_id = outbox.insert()
        outbox.wait_published([row_id])
        outbox.wait_confirmed()
        assert "too late" in command(outbox, "skip", row_id, code=1)


def test_a_relay_that_begins_anew_waits_while_others_hold_the_rows_that_it_would_remove(outbox):
    outbox.connection.execute(LETS_GO)  # or else nothing could keep them, which needs no trying out
    outbox.insert()
    port = ports.choose(taken=set())
    with psycopg.connect(outbox.dsn) as other:
        other.execute("SELECT FROM outbox FOR UPDATE")
        with relaying(outbox, http_port=port):
            wait_until(lambda: "transactions that are open hold rows of" in answer(port, "/readyz")[1], "told")
            other.rollback()
            outbox.wait_published(outbox.written())


def test_where_nothing_can_keep_rows_that_is_not_tried_out(outbox):
    """Or else it would wait for whoever holds some."""
    with relaying(outbox, cleanup=False):  # it makes its publication
        outbox.wait_published([outbox.insert()])
    outbox.connection.execute("CREATE PUBLICATION others FOR TABLE written")
    with psycopg.connect(outbox.dsn) as other, psycopg.connect(outbox.dsn, autocommit=True) as connection:
        other.execute("SELECT FROM outbox FOR UPDATE")
        assert not rows_stay(connection, find_table(connection, OUTBOX), cleanup=True)


@pytest.mark.parametrize("table", ["outbox", "outbox_0", "outbox_1"])
@pytest.mark.parametrize("of", ["ALL TABLES", "TABLE outbox", "TABLE outbox_0", "TABLES IN SCHEMA public"])
@pytest.mark.parametrize("via_root", [True, False])
def test_a_publication_that_refuses_removals_is_noticed_however_it_has_the_table(outbox, of, table, via_root):
    outbox.connection.execute(PARTITIONED)
    outbox.insert_many(20)
    outbox.connection.execute(f"CREATE PUBLICATION bi FOR {of} WITH (publish_via_partition_root = {via_root})")
    with psycopg.connect(outbox.dsn, autocommit=True) as connection:
        stay = rows_stay(connection, find_table(connection, Outbox(table=table)), cleanup=True)
    assert stay is not (of == "TABLE outbox_0" and table == "outbox_1")


def test_a_poller_goes_on_where_rows_cannot_be_removed(outbox):
    outbox.connection.execute(REFUSES)
    port = ports.choose(taken=set())
    with relaying(outbox, reader="polling", http_port=port):
        outbox.wait_published([outbox.insert()])
        reconnects = metric(port, outbox, "reconnects_total")  # one, if the broker did not know the new topic yet
        for _ in range(3):
            outbox.wait_published([outbox.insert()])
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready")
        assert metric(port, outbox, "reconnects_total") == reconnects


def test_a_poller_says_that_rows_which_it_has_marked_are_not_removed(outbox):
    outbox.connection.execute(IGNORES)
    with capture_logs() as said, relaying(outbox, reader="polling"):
        rows = [outbox.insert() for _ in range(3)]
        outbox.wait_published(rows)
        wait_until(
            lambda: any("published rows stay in public.outbox: a trigger" in one["event"] for one in list(said)),
            "it is told",
        )
    assert are_there(outbox, rows)


def test_a_row_from_the_table_that_can_never_be_published_holds_up_nothing(outbox, monkeypatch):
    monkeypatch.setattr(cleaner, "LOOK_INTERVAL_S", 0.2)
    monkeypatch.setattr(cleaner, "HAND_OVER_WAIT_S", 3_600)  # for as long it would hold up the others
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()  # there is a slot, which does not bring what follows
    outbox.connection.execute("ALTER PUBLICATION settle_outbox SET (publish = 'update')")
    good = [outbox.insert(), outbox.insert()]
    bad = outbox.insert(to="no topic")
    with relaying(outbox):
        outbox.wait_published(good)
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "all are out of the table")
        assert outbox.one("SELECT array_agg(id) FROM outbox_dead") == [bad]
