"""What unit tests share: none remembers another's secrets."""

import pytest

from contracts import redaction


@pytest.fixture(autouse=True)
def no_secret_is_remembered(monkeypatch):
    """Otherwise what one test gave as a password would be hidden in the output of the next."""
    monkeypatch.setattr(redaction, "_known", frozenset())
    monkeypatch.setattr(redaction, "_pattern", None)
