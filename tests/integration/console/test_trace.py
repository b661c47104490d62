"""The trace of a withdrawal as a waterfall: the spans of the JSON, what is missing, and that Jaeger is away."""

import pytest

from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import Pages

LIST = "/console/withdrawals"


@pytest.fixture
def payment_id(front: Front, shop):
    found = requested(shop, front.open_account(), "1.05")
    front.finished(found)
    return found


def test_it_has_every_span_of_the_json_and_says_whether_it_is_whole(front: Front, viewer: Pages, payment_id):
    def whole():
        found = viewer.json(f"{WITHDRAWALS}/{payment_id}/trace")
        return found if found["missing"] is None else None

    found = wait_until(whole, "the trace is whole")
    page = viewer.get(f"{LIST}/{payment_id}?tab=trace")
    text = " ".join(page.text.split())
    for span in found["spans"]:
        assert f"{span['name']} {span['service']}" in text
    assert f"{len(found['spans'])} spans of {len({one['service'] for one in found['spans']})} services" in text
    assert "whole Open in Jaeger" in text
    assert "not whole" not in text
    assert sum(about.get("class") == "span" for _, about in page.elements) == len(found["spans"])
    assert f"{found['jaeger']}/trace/{found['trace_id']}" in page.links


def test_what_is_missing_is_said(front: Front, viewer: Pages, payment_id):
    wait_until(lambda: viewer.json(f"{WITHDRAWALS}/{payment_id}/trace")["missing"] is None, "the trace is whole")
    front.jaeger.lost = lambda span: span.service == "settle-payment"
    try:
        text = viewer.get(f"{LIST}/{payment_id}?tab=trace").text
        found = viewer.json(f"{WITHDRAWALS}/{payment_id}/trace")
        assert f"not whole: {found['missing']}" in " ".join(text.split())
        assert "its parent is not there" in text
        front.jaeger.lost = lambda span: True
        assert "Jaeger has no span of it" in viewer.get(f"{LIST}/{payment_id}?tab=trace").text
    finally:
        front.jaeger.lost = lambda span: False


def test_where_jaeger_is_away_that_is_said_and_the_rest_is_there(front: Front, viewer: Pages, payment_id):
    front.jaeger.away = True
    try:
        page = viewer.get(f"{LIST}/{payment_id}?tab=trace")
        assert "The trace could not be asked for: Jaeger at" in page.text
        assert "refuses: 503" in page.text
        assert "1.05 USD" in page.text
    finally:
        front.jaeger.away = False
