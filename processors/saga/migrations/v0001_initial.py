"""The event store, the states of withdrawals, and the outbox."""

from alembic import op

from processors.runtime.schema import OUTBOX_V1, append_only_v1

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    -- Every event of every withdrawal, as received. The origin is empty for those this service wrote itself.
    CREATE TABLE event_store (
        sequence      bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        payment_id    uuid NOT NULL,
        event_id      uuid NOT NULL,
        type          text NOT NULL,
        payload       json NOT NULL,
        topic         text,
        "partition"   integer,
        "offset"      bigint,
        recorded_at   timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (payment_id, type, event_id)
    );

    -- `seen` is the set of event types that have arrived, one bit each; it only grows, so it is the version too.
    CREATE TABLE withdrawals (
        payment_id   uuid PRIMARY KEY,
        account_id   text NOT NULL,
        amount_minor bigint NOT NULL,
        currency     text NOT NULL,
        state        text NOT NULL CHECK (state IN ('incomplete', 'requested', 'deducted', 'paid', 'completed',
            'rejected', 'compensating', 'compensated')),
        seen         integer NOT NULL,
        reason       text,
        trace_id     text,
        created_at   timestamptz NOT NULL DEFAULT now(),
        updated_at   timestamptz NOT NULL DEFAULT now(),
        finished_at  timestamptz,
        finished_by  text,
        CHECK ((finished_at IS NULL) = (finished_by IS NULL))
    ) WITH (fillfactor = 60);
    CREATE INDEX withdrawals_open ON withdrawals (created_at) WHERE finished_at IS NULL;
    """)
    op.execute(append_only_v1("event_store"))
    op.execute(OUTBOX_V1)
