"""The shares of an outbox: their names, what a record says of its share, and filters as the server writes them."""

import pytest

from outbox_relay.fencing import transactional_id
from outbox_relay.outbox import OUTBOX, Outbox
from outbox_relay.position import Origin
from outbox_relay.share import SHARES_MAX, Share, condition, same

TAG = b"1f0c9a3e"


def test_an_outbox_that_is_not_split_is_what_it_was():
    assert OUTBOX.split(1) == (OUTBOX,)
    assert Origin(TAG, 0, 0).position(1) == b"1f0c9a3e:0/1"
    assert transactional_id(Origin(TAG, 0, 0)) == "settle-outbox-1f0c9a3e"


def test_each_share_has_a_publication_of_its_own_which_says_how_many_there_are():
    assert [one.publication_name for one in OUTBOX.split(2)] == ["settle_outbox_1of2", "settle_outbox_2of2"]
    long = Outbox(publication="p" * 63).split(SHARES_MAX)
    assert len({one.publication_name for one in long}) == SHARES_MAX
    assert max(len(one.publication_name) for one in long) == 63


def test_a_share_looks_back_to_what_it_has_confirmed_itself():
    """Another share's record may be confirmed there although one of this share before it is not."""
    own, other = Origin(TAG, 100, 0, "1of2"), Origin(TAG, 100, 0, "2of2")
    assert own.has_confirmed(own.position(99))
    assert not own.has_confirmed(own.position(100))
    assert not own.has_confirmed(other.position(99))
    assert not own.has_confirmed(Origin(TAG, 0, 0).position(99))
    assert not Origin(TAG, 100, 0).has_confirmed(own.position(99))


def test_a_record_may_be_of_a_row_of_this_share_unless_it_is_of_another_one_beside_it():
    for origin in (Origin(TAG, 0, 0), Origin(TAG, 0, 0, "1of2"), Origin(TAG, 0, 0, "2of12")):
        for written in (Origin(TAG, 0, 0), Origin(TAG, 0, 0, "1of2"), Origin(TAG, 0, 0, "3of4"), origin):
            assert origin.is_of(written.position(7))
        assert not Origin(TAG, 0, 0, "1of2").is_of(Origin(TAG, 0, 0, "2of2").position(7))
        assert not origin.is_of(Origin(b"1f0c9a3f", 0, 0, "1of2").position(7))
        assert not origin.is_of(None)


def test_each_share_is_fenced_by_itself():
    assert transactional_id(Origin(TAG, 0, 0, "2of4")) == "settle-outbox-1f0c9a3e-2of4"


@pytest.mark.parametrize(
    ("key", "kind", "server"),
    [
        ("aggregateid", "text", "(mod((COALESCE((hashtext(aggregateid) & 2147483647), 0)), 4) = 1)"),
        ("Key of", "varchar", '(mod(COALESCE((hashtext(("Key of")::text) & 2147483647), 0), 4) = 1)'),
        ("id", "uuid", "(mod(COALESCE((uuid_hash(id) & 2147483647), 0), 4) = 1)"),
    ],
)
def test_a_filter_is_known_again_as_the_server_writes_it(key, kind, server):
    written = condition(Share(2, 4), key, kind).as_string()
    assert same(server, written)
    assert not same(server.replace("= 1", "= 2"), written)
    assert not same(server.replace(", 4)", ", 3)"), written)


def test_types_that_no_row_filter_may_have_are_none_to_split_by():
    assert condition(Share(1, 2), "aggregateid", "citext") is None
    assert condition(Share(1, 2), "aggregateid", "enum") is None
