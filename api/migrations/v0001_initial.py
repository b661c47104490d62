"""The withdrawals that were accepted, the keys of callers, and the outbox."""

from alembic import op

from processors.runtime.schema import WITH_OUTBOX_V1

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    -- One row per accepted request. What became of it is in the saga service's database.
    CREATE TABLE withdrawals (
        payment_id      uuid PRIMARY KEY,
        caller          text NOT NULL,
        idempotency_key text NOT NULL,
        names_payment   boolean NOT NULL, -- whether the caller chose the payment ID
        account_id      text NOT NULL,
        amount_minor    bigint NOT NULL CHECK (amount_minor > 0),
        currency        text NOT NULL,
        requested_at    timestamptz NOT NULL,
        traceparent     text NOT NULL,
        UNIQUE (caller, idempotency_key)
    );
    -- A caller's own, the newest first.
    CREATE INDEX withdrawals_of_caller ON withdrawals (caller, requested_at, payment_id);

    -- The secret itself is nowhere: it is 256 random bits, so its plain hash is enough.
    CREATE TABLE api_keys (
        key_id      text PRIMARY KEY,
        secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),
        caller      text NOT NULL,
        role        text NOT NULL CHECK (role IN ('client', 'viewer', 'operator', 'admin')),
        scopes      text[] NOT NULL,
        created_at  timestamptz NOT NULL DEFAULT now(),
        expires_at  timestamptz,
        revoked_at  timestamptz
    );

    -- One-time tokens by which a person signs in, and the sessions that they became; by the hash of the secret.
    CREATE TABLE sign_ins (
        token_hash bytea PRIMARY KEY CHECK (length(token_hash) = 32),
        caller     text NOT NULL,
        role       text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
        expires_at timestamptz NOT NULL
    );
    CREATE TABLE sessions (
        session_hash bytea PRIMARY KEY CHECK (length(session_hash) = 32),
        caller       text NOT NULL,
        role         text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
        created_at   timestamptz NOT NULL DEFAULT now(),
        expires_at   timestamptz NOT NULL
    );
    """)
    op.execute(WITH_OUTBOX_V1)
