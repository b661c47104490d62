"""The relay goes on where its database's standby was promoted: nothing lost, nothing doubled."""

from types import SimpleNamespace

import psycopg
import pytest

from outbox_relay.errors import SetupError
from outbox_relay.table import lock
from tests.integration.relay.outbox import Outbox, relay_process, wait_until
from tests.integration.relay.pair import Pair

IS_SYNCED = "SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = %s"
PRIMARY = "?target_session_attrs=read-write"
# At rest a standby looks for slots every 30 s, and keeps one once the primary's has moved on.
SYNCED_S = 150


@pytest.mark.parametrize("synchronize_slots", [True, False], ids=["slot synchronised", "slot left behind"])
def test_a_promoted_standby_is_read_on_from_what_was_published(stack, tmp_path, synchronize_slots):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    with Pair(tmp_path, synchronize_slots=synchronize_slots) as pair:
        state = SimpleNamespace(dsns={"account": pair.dsn})
        outbox = Outbox(SimpleNamespace(state=state, admin_bootstrap=stack.admin_bootstrap, data=stack.data))
        with pair.session_on_standby() as standby, pytest.raises(SetupError, match="the server is a standby"):
            lock(standby)
        with relay_process(outbox, dsn=outbox.dsn + PRIMARY):
            outbox.insert_many(1_000)
            outbox.wait_published(outbox.written())
            if synchronize_slots:
                wait_until(
                    lambda: pair.on_standby(IS_SYNCED, outbox.slot) == (True,),
                    "the standby has the slot",
                    SYNCED_S,
                )
            outbox.insert_many(5_000)  # some of which are on their way
            pair.fail_over()
            outbox.connection = psycopg.connect(outbox.dsn, autocommit=True)
            assert (pair.on_standby(IS_SYNCED, outbox.slot) is not None) == synchronize_slots
            outbox.insert_many(1_000)
            outbox.wait_published(outbox.written())
        assert outbox.assert_exactly_once_in_order() == 7_000
