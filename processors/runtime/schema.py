"""Tables that look the same in every service's database.

Migrations are frozen in time, so each definition carries a version and is never edited: a change is a new
one.
"""

OUTBOX_V1 = """
    -- The columns of Debezium's outbox event router. IDs come from the services: uuidv7() exists since 18.
    CREATE TABLE outbox (
        id            uuid PRIMARY KEY,
        aggregatetype text NOT NULL,
        aggregateid   text NOT NULL,
        type          text NOT NULL,
        payload       json NOT NULL,
        traceparent   text,
        tracestate    text,
        created_at    timestamptz NOT NULL DEFAULT now()
    )
"""


OUTBOX_DEAD_V1 = """
    -- Where the relay puts a row that Kafka will never take, so that the rest can go on.
    CREATE TABLE IF NOT EXISTS outbox_dead (
        id            text PRIMARY KEY,
        aggregatetype text NOT NULL,
        aggregateid   text NOT NULL,
        type          text NOT NULL,
        payload       json NOT NULL,
        traceparent   text,
        tracestate    text,
        position      pg_lsn NOT NULL,
        reason        text NOT NULL,
        died_at       timestamptz NOT NULL DEFAULT now()
    );
    -- Rows come and go: vacuumed by how many were removed, not by a share of what is there.
    ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)
"""

OUTBOX_WITHOUT_INDEX_V1 = """
    -- Nobody looks for a row by its ID: the relay reads the log, and removes rows by their place. An index costs
    -- each row a record of the write-ahead log, which the walsender of every database of the server reads.
    ALTER TABLE outbox DROP CONSTRAINT outbox_pkey
"""

GAPS_V1 = """
    -- Offsets from first to before until, deleted by Kafka before this service had read them; see gaps.py.
    CREATE TABLE gaps (
        topic           text NOT NULL,
        "partition"     integer NOT NULL,
        first           bigint NOT NULL,
        until           bigint NOT NULL,
        noticed_at      timestamptz NOT NULL DEFAULT now(),
        acknowledged_at timestamptz,
        note            text,
        PRIMARY KEY (topic, "partition", first),
        CHECK (first < until),
        CHECK ((acknowledged_at IS NULL) = (note IS NULL))
    )
"""

OUTBOX_DEAD_V2 = """
    -- It takes a row of any content: bytes, NULL, an ID of any length. A relay that owns it may have been faster.
    DO $$ BEGIN
        IF EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = 'outbox_dead'::regclass AND attname = 'payload' AND atttypid = 'json'::regtype
        ) THEN
            ALTER TABLE outbox_dead
                DROP CONSTRAINT IF EXISTS outbox_dead_pkey,
                ALTER id DROP NOT NULL, ALTER aggregatetype DROP NOT NULL, ALTER aggregateid DROP NOT NULL,
                ALTER type DROP NOT NULL, ALTER payload DROP NOT NULL,
                ALTER payload TYPE bytea USING convert_to(payload::text, 'UTF8'),
                ADD number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
        END IF;
    END $$
"""


WITH_OUTBOX_V1 = "; ".join((OUTBOX_V1, OUTBOX_DEAD_V1, OUTBOX_WITHOUT_INDEX_V1, OUTBOX_DEAD_V2))
"""What the first migration of the API created, beside its own tables."""


def append_only_v1(table: str) -> str:
    """SQL that makes a table refuse UPDATE, DELETE and TRUNCATE for every role."""
    return f"""
    CREATE FUNCTION {table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '{table} is append-only: % refused', TG_OP;
    END $$;
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION {table}_is_append_only();
    """


OUTBOX_CONTROL_V1 = f"""
    -- What people ask of the outbox's relay, and what came of it. A relay that owns the outbox may be faster.
    CREATE TABLE IF NOT EXISTS outbox_control (
        number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        act      text NOT NULL,
        about    bigint,
        who      text NOT NULL,
        why      text,
        role     text NOT NULL DEFAULT session_user,
        row_id   text,
        since    timestamptz,
        position pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn(),
        outcome  text
    );
    {append_only_v1("outbox_control")}
"""

LOST_RACE_V1 = """
    -- Ends the transaction of whoever finds, in one of its statements, that a row has changed since it was read.
    CREATE FUNCTION settle_lost_race() RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        RAISE serialization_failure USING MESSAGE = 'a row has changed since it was read';
    END $$
"""

WITH_OUTBOX_V2 = "; ".join((WITH_OUTBOX_V1, OUTBOX_CONTROL_V1))
"""What the first migration of a service creates that emits and reads no topic, beside its own tables."""

SERVICE_V2 = "; ".join((WITH_OUTBOX_V2, GAPS_V1))
"""What the first migration of a stream processor creates, beside its own tables."""
