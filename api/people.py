"""What people's browsers open: signing in by a one-time link, and the documentation, which works offline."""

from typing import Any
from urllib.parse import unquote

from litestar import Response, get
from litestar.response import Redirect

from api.bodies import StrictRequest
from api.console.rendering import html, render
from api.cookies import session_cookie
from api.credentials import SIGN_IN
from api.front import Front
from api.guard import OPEN, OURS
from api.openapi import document
from api.page import page
from api.problems import Problem

DOCS = "/v1/docs"
CONSOLE = "/console"

WANTED = "settle_wanted"
"""A cookie for the way through the sign-in: the page that somebody wanted to see."""

WANTED_MAX = 1_000

_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@get(SIGN_IN, opt={OPEN: True}, include_in_schema=False, status_code=303)
async def sign_in(request: StrictRequest, token: str = "", sure: bool = False) -> Response[Any]:
    """Turn the token of a link into a session; it is spent then.

    It asks first where another site leads here, be it a host beside this one or another port of it: somebody may
    lead others into a session of their own. And it asks where no browser says that a person opens it: a chat that
    looks at each link for its preview would spend the token.
    """
    site = request.headers.get("sec-fetch-site")
    if site not in (None, *OURS) or not (site or sure):
        return html(render("sign_in_here.html", title="Sign in", token=token, elsewhere=site is not None))
    front: Front = request.app.state.front
    secret = await front.credentials.sign_in(token)
    if secret is None:
        raise Problem("unauthenticated", "the link has been used, or is too old: `settle up` prints a new one")
    return Redirect(_wanted(request), status_code=303, cookies=[session_cookie(front.credentials, secret)])


@get("/", opt={OPEN: True}, include_in_schema=False, status_code=303)
async def root(request: StrictRequest) -> Redirect:
    """Whoever types the address wants the console; there is nothing else."""
    if "text/html" not in request.headers.get("accept", ""):
        raise Problem("path-unknown", "the path is unknown")
    return Redirect(CONSOLE, status_code=303)


def _wanted(request: StrictRequest) -> str:
    """The page of ours that somebody wanted to see; the console where there is none."""
    path = unquote(request.cookies.get(WANTED, ""))
    is_ours = path == CONSOLE or path.startswith((f"{CONSOLE}/", f"{CONSOLE}?"))
    return path if is_ours and path.isprintable() and path.isascii() and len(path) <= WANTED_MAX else CONSOLE


@get("/v1/openapi.json", opt={OPEN: True}, include_in_schema=False)
async def openapi() -> Response[bytes]:
    """The document that the repository has as well."""
    return Response(document(), media_type="application/json")


@get(DOCS, opt={OPEN: True}, include_in_schema=False)
async def docs() -> Response[str]:
    """The same for people."""
    return Response(page(), media_type="text/html", headers={"Content-Security-Policy": _PAGE_POLICY})


ROUTES: list[Any] = [sign_in, root, openapi, docs]
