"""Rendering of templates: HTML in which all text is escaped, and the headers that pages have."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Response

from api.console import places, static_files, words
from operations.dead_letters.warning import UNVERIFIED

TEMPLATES = Path(__file__).parent / "templates"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""The Content-Security-Policy of pages: no script or style but ours, and none inline."""

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters |= {
    "clock": words.clock,
    "count": words.count,
    "duration": words.duration,
    "moment": words.moment,
    "rate": words.rate,
    "size": words.size,
    "visible": words.visible,
}
_ENVIRONMENT.globals |= {
    "account_path": places.account_path,
    "asset": static_files.url,
    "between": words.between,
    "findings": places.findings,
    "pieces": places.pieces,
    "money": words.money,
    "signed": words.signed,
    "STATES": words.STATES,
    "UNVERIFIED": UNVERIFIED,
}


def render(template: str, **context: Any) -> str:
    """A template as HTML; a name that it lacks is an error."""
    return _ENVIRONMENT.get_template(template).render(**context)


def html(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response[str]:
    """A page as a response."""
    policy = {"Content-Security-Policy": POLICY}
    return Response(text, status_code=status, media_type="text/html", headers=policy | (headers or {}))
