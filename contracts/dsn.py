"""Database addresses (DSNs) as libpq takes them: URLs, and key-value strings (``host=db1 dbname=account``)."""

import re
from typing import Annotated

from pydantic import AfterValidator

_URL = r"postgres(?:ql)?://"
# A URL with commas in it ends where white space, or a comma and the next URL, begins. A comma before white space
# separates, and belongs to neither.
_WORD = re.compile(
    rf"""
    [\s,]*(?:
        (?P<url>{_URL}\S*?)(?=,*(?:\s|$)|,{_URL})
      | (?P<key>\w+)\s*=\s*(?:'(?:\\.|[^\\'])*'|(?:\\.|[^\s\\])*?)(?=,*(?:\s|$)|,{_URL})
    )""",
    re.VERBOSE | re.DOTALL,
)
_AUTHORITY = re.compile(rf"{_URL}[^/?#\s]*")
EXAMPLES = "postgresql://settle@127.0.0.1:5432/account or host=127.0.0.1 dbname=account"


def check_dsn(dsn: str) -> str:
    """A database's URL or key-value string, as it is.

    Raises:
        ValueError: it is neither, a string that names no database, or a URL with a plain ``@`` in its password.
    """
    if (authority := _AUTHORITY.match(dsn)) is not None and authority[0].count("@") > 1:
        raise ValueError("a URL with more than one @: in a user's name or password it is written %40")
    # Imported here: most readers of settings need no database.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        named = conninfo_to_dict(dsn).keys() & {"dbname", "service"}
        if named or re.match(_URL, dsn):
            return dsn
    except psycopg.ProgrammingError:
        pass  # libpq's message may contain a password
    raise ValueError(f"not a database such as {EXAMPLES}")


Dsn = Annotated[str, AfterValidator(check_dsn)]
"""The type of a setting that holds a DSN."""


def split_dsns(text: str) -> list[str]:
    """Split a list of DSNs: URLs, separated by white space or commas, and key-value strings.

    A key-value string ends with its line, or where one of its keywords comes again.

    Raises:
        ValueError: there is something else.
    """
    found: list[str] = []
    for line in text.splitlines():
        found += _of_line(line)
    return [check_dsn(dsn) for dsn in found]


def _of_line(line: str) -> list[str]:
    found: list[str] = []
    keywords: set[str] = set()
    at = 0
    while line[at:].strip(", \t"):
        word = _WORD.match(line, at)
        if word is None:
            raise ValueError(f"not a list of databases such as {EXAMPLES}")
        at = word.end()
        keyword, text = word["key"], word[0].lstrip(" \t,")
        if keyword is not None and keywords and keyword not in keywords:
            found[-1] += f" {text}"
            keywords.add(keyword)
        else:
            found.append(text)
            keywords = {keyword} if keyword is not None else set()
    return found
