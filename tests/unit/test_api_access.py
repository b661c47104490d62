"""Who gets credentials: a name that could be somebody else's, or that can do nothing, is refused."""

import pytest

from api.access import complaint


@pytest.mark.parametrize(
    ("caller", "role", "scopes", "said"),
    [
        ("shop", "client", [], None),
        ("shop.example:7", "client", ["withdrawals:read"], None),
        ("oidc:carol", "operator", [], "the OpenID provider"),
        ("", "client", [], "names no caller"),
        ("a b", "client", [], "names no caller"),
        ("a" * 65, "client", [], "names no caller"),
        ("shop\n", "client", [], "names no caller"),
        ("shop", "root", [], "there is no role"),
        ("shop", "client", ["everything"], "there is no scope"),
        ("shop", "client", ["accounts:read"], "a client lacks the permission"),
    ],
)
def test_what_is_wrong_with_who_gets_credentials(caller, role, scopes, said):
    found = complaint(caller, role, scopes)
    assert found is None if said is None else said in found
