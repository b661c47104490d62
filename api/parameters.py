"""Query parameters of a request: none but those that its route documents, and nothing that reads in two ways."""

import re
from datetime import datetime
from functools import cache
from typing import NamedTuple
from urllib.parse import parse_qsl

from litestar.handlers.base import BaseRouteHandler
from litestar.params import ParameterKwarg

from api.problems import Problem, name_of


class Known(NamedTuple):
    """A query parameter that a handler takes: whether as a list, and whether it is a time."""

    is_list: bool
    is_time: bool


def check(handler: BaseRouteHandler, query: bytes) -> None:
    """Refuse a query that the handler would read otherwise than it was meant.

    Args:
        handler: of a documented route.
        query: the query string of a request.

    Raises:
        Problem: it has a parameter that the handler does not know, several values for one that takes one, or a
            time without a zone.
    """
    known = known_to(handler)
    seen = set[str]()
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in known:
            there_are = f"there are {', '.join(known)}" if known else "there are none"
            raise Problem("invalid", f"{name[:_SHOWN]!r} is no query parameter of this route: {there_are}")
        if name in seen and not known[name].is_list:
            raise Problem("invalid", f"{name}: given more than once, and it takes one value")
        if known[name].is_time and not _ZONED.fullmatch(value):
            said = "a time has a date and a zone, such as 2026-11-30T02:15:00Z; in a URL, the + of a zone is %2B"
            raise Problem("invalid", f"{name}: {said}")
        seen.add(name)


@cache
def known_to(handler: BaseRouteHandler) -> dict[str, Known]:
    """The query parameters of a handler, by their names in a URL, as its signature has them."""
    in_path = {name for path in handler.paths for name in _IN_PATH.findall(path)}
    found: dict[str, Known] = {}
    for name, field in handler.parsed_fn_signature.parameters.items():
        about = field.kwarg_definition
        is_elsewhere = isinstance(about, ParameterKwarg) and (about.header is not None or about.cookie is not None)
        if name not in _GIVEN | in_path and not is_elsewhere:
            found[name_of(field)] = Known(
                any(one.is_non_string_sequence for one in (field, *field.inner_types)),
                any(one.is_subclass_of(datetime) for one in (field, *field.inner_types)),
            )
    return found


_ZONED = re.compile(r"(?>.*?\d[Tt ]\d).*(?:[Zz]|[+-]\d\d:?\d\d)")
_IN_PATH = re.compile(r"\{(\w+)")
_GIVEN = frozenset({"request", "data"})
"""What a handler takes that is no parameter."""

_SHOWN = 50
"""Characters of an unknown name that its problem repeats."""
