"""What is known of a record before it is decoded, whatever bytes it has."""

from uuid import UUID

import pytest

from broker.records import Record, payment_id_of
from tests.unit.messages import request


def record(value: bytes | None) -> Record:
    return Record("account.events.dlq", 0, 7, b"acc-1", value, [])


UNREADABLE = [
    None,
    b"",
    b"\xff",
    b'{"payment_id": "\xff"}',
    b'{"payment_id": ["\xff"]}',
    b'{"payment_id": {"\xff": 1}}',
    b'{"payment_id": 7}',
    b'{"payment_id": "\\ud800"}',
    b'{"payment_id": ' + b"[" * 100_000,
    b'{"other": ' + b"[" * 100_000,
]


@pytest.mark.parametrize("value", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_body_that_cannot_be_read_has_no_payment_id(value: bytes | None) -> None:
    assert record(value).payment_id is None
    assert payment_id_of(record(value)) is None


def test_a_body_that_is_wrong_elsewhere_has_one() -> None:
    payment_id = request().payment_id
    of_another = record(b'{"payment_id": "%b", "amount_minor": "\xff"}' % str(payment_id).encode())
    assert (of_another.payment_id, payment_id_of(of_another)) == (str(payment_id), payment_id)
    assert isinstance(payment_id_of(of_another), UUID)
