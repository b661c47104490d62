"""The cookie of a session, which no script reads."""

from litestar.datastructures import Cookie

from api.credentials import SESSION_S, Credentials


def session_cookie(credentials: Credentials, secret: str) -> Cookie:
    """The cookie with a session's secret; an empty one takes it back."""
    return Cookie(
        credentials.cookie_name,
        value=secret,
        max_age=int(SESSION_S) if secret else 0,
        path="/",
        httponly=True,
        samesite="strict",
        secure=credentials.is_tls,
    )
