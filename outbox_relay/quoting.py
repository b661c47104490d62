"""Names as PostgreSQL's SQL writes them: quoted where they need it, and no longer than it keeps them.

Source: PostgreSQL documentation, "Lexical Structure" and "SQL Key Words".
"""

import re

NAME_BYTES_MAX = 63

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
# Those that SQL reserves, or takes for a type or function: what quote_ident() quotes.
_KEYWORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both
    case cast char character check coalesce collate collation column concurrently constraint create cross
    current_catalog current_date current_role current_schema current_time current_timestamp current_user dec
    decimal default deferrable desc distinct do else end except exists extract false fetch float for foreign
    freeze from full grant greatest group grouping having ilike in initially inner inout int integer
    intersect interval into is isnull join json json_array json_arrayagg json_exists json_object
    json_objectagg json_query json_scalar json_serialize json_table json_value lateral leading least left
    like limit localtime localtimestamp merge_action national natural nchar none normalize not notnull null
    nullif numeric offset on only or order out outer overlaps overlay placing position precision primary real
    references returning right row select session_user setof similar smallint some substring symmetric
    system_user table tablesample then time timestamp to trailing treat trim true union unique user using
    values varchar variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists
    xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
    """.split()  # noqa: SIM905 - a list of them would be a page
)


def quoted(name: str) -> str:
    """A name as it stands in SQL; the same as ``quote_ident``, without a database."""
    if _PLAIN.fullmatch(name) and name not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def shortened(name: str, suffix: str = "") -> str:
    """A name with a suffix, cut before it to what PostgreSQL keeps."""
    room = NAME_BYTES_MAX - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix
