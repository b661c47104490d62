"""The log of what operators have done, and the audits that were started."""

from alembic import op

from operations.audit.history import TABLE_V1
from processors.runtime.schema import append_only_v1

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
    -- Two rows an action, with one request ID: what was to be done, written before it, and what came of it.
    CREATE TABLE operator_log (
        number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at         timestamptz NOT NULL DEFAULT clock_timestamp(),
        request_id uuid NOT NULL,
        caller     text NOT NULL,
        role       text NOT NULL,
        action     text NOT NULL,
        subject    json NOT NULL,
        reason     text NOT NULL,
        result     json
    );
    """)
    op.execute(append_only_v1("operator_log"))
    op.execute(TABLE_V1)
