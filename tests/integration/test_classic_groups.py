"""With ``SETTLE_KAFKA_GROUP_PROTOCOL=classic`` faults that move partitions end as with ``consumer``."""

import pytest

from tests.conftest import running
from tests.integration.test_faults import (  # noqa: F401
    all_ready_again,
    test_a_second_instance_joins_and_leaves_without_a_pause_of_more_than_three_seconds,
    test_a_stop_in_good_order_under_load_loses_and_doubles_nothing,
    test_killing_each_service_and_the_relay_under_load_loses_and_doubles_nothing,
    untraced,
)
from tests.integration.test_sharing import (  # noqa: F401
    test_an_instance_without_partitions_is_ready_and_takes_over,
    test_every_instance_has_the_same_share_of_every_topic,
)


@pytest.fixture(scope="module")
def settle(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETTLE_KAFKA_GROUP_PROTOCOL", "classic")  # of further instances
        with running(tmp_path_factory.mktemp("stack"), SETTLE_KAFKA_GROUP_PROTOCOL="classic") as settle:
            yield settle


@pytest.fixture
def protocol():
    return "classic"
