"""Database addresses (DSNs) as libpq takes them: URLs, and key-value strings (``host=db1 dbname=account``)."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from contracts.redaction import remember_passwords

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
_AT_IN_PATH = re.compile(rf"{_URL}[^/?#\s]*/[^?#\s]*@")
_NUMBER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
# libpq checks the other parameters when it begins to connect: to a socket where there is none.
_NOWHERE = {"host": "/nonexistent", "hostaddr": "", "port": "1"}
# libpq refuses it, as the last parameter that it looks at.
_NOBODYS = "settle-asks"
EXAMPLES = "postgresql://settle@127.0.0.1:5432/account or host=127.0.0.1 dbname=account"


def check_dsn(dsn: str) -> str:
    """A database's URL or key-value string, as it is. Connects to nothing; no error shows a value of it.

    Raises:
        ValueError: it is neither, names no database, is a URL with a plain ``@`` in its password, or has a
            parameter that libpq will refuse, such as a port that is none or a service that is not defined.
    """
    remember_passwords(dsn)
    if (authority := _AUTHORITY.match(dsn)) is not None and authority[0].count("@") > 1:
        raise ValueError("a URL with more than one @: in a user's name or password it is written %40")
    if _AT_IN_PATH.match(dsn):
        raise ValueError("a URL with an @ behind a /: in a user's name or password they are written %40 and %2F")
    # Imported here: most readers of settings need no database.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        parameters = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        parameters = None  # libpq's message may contain a password
    if parameters is None or not (parameters.keys() & {"dbname", "service"} or re.match(_URL, dsn)):
        raise ValueError(f"not a database such as {EXAMPLES}")
    if (wrong := _wrong_port(parameters) or _wrong_number(parameters) or _refused(dsn)) is not None:
        raise ValueError(wrong)
    return dsn


def _wrong_port(parameters: Mapping[str, Any]) -> str | None:
    ports = str(parameters.get("port", "")).split(",")
    for port in filter(None, ports):
        if not _NUMBER.fullmatch(port) or not 0 < int(port) < 65536:
            return (
                "its port is not a number from 1 to 65535; a URL is postgresql://user:password@host:port/database"
            )
    hosts = parameters.get("hostaddr") or parameters.get("host")
    if hosts is not None and len(ports) not in (1, str(hosts).count(",") + 1):
        return "it has neither one port nor one for each host"
    return None


def _wrong_number(parameters: Mapping[str, Any]) -> str | None:
    wrong = (name for name in _NUMBERS if not _NUMBER.fullmatch(str(parameters.get(name, 0))))
    return next((f"its {name} is not a number" for name in wrong), None)


def _refused(dsn: str) -> str | None:
    """Which parameter libpq refuses, in words without its value."""
    from psycopg import pq
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    said = pq.PGconn.connect_start(make_conninfo(dsn, **_NOWHERE).encode()).error_message.decode(errors="replace")
    if said.startswith("connection to server"):
        return None
    if "service" in said:
        named = conninfo_to_dict(dsn).get("service")
        return f"its service {named} is not in the connection service file (PGSERVICEFILE, ~/.pg_service.conf)"
    name = next((name for name in conninfo_to_dict(dsn) if name in said), "connection string")
    return f"libpq refuses its {name}"


Dsn = Annotated[str, AfterValidator(check_dsn)]
"""The type of a setting that holds a DSN; as it may contain a password, its field has ``repr=False``."""


def has_password(dsn: str) -> bool:
    """Whether a valid DSN itself contains a password, of the role or of its key."""
    from psycopg.conninfo import conninfo_to_dict

    return bool(conninfo_to_dict(dsn).keys() & {"password", "sslpassword"})


def effective(dsn: str) -> dict[str, str]:
    """The parameters that libpq will use for a valid DSN: also those of its service, its passfile and ``PG…``.

    A parameter that is not set, and has no default, is missing. Connects to nothing.

    Raises:
        ValueError: libpq cannot read it, or its service is not defined.
    """
    import psycopg
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    try:
        # Refused after all is read, and before anything is looked up or connected to.
        end = pq.PGconn.connect_start(make_conninfo(dsn, target_session_attrs=_NOBODYS).encode())
    except psycopg.ProgrammingError:
        raise ValueError(f"not a database such as {EXAMPLES}") from None
    said = end.error_message.decode(errors="replace")
    if _NOBODYS not in said:
        raise ValueError(_refused(dsn) or "libpq cannot read it")
    found = {option.keyword.decode(): option.val.decode() for option in end.info if option.val}
    found["password"] = end.password.decode()
    del found["target_session_attrs"]
    return {name: value for name, value in found.items() if value}


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
