"""Java's regular expressions as Python's, and the router's replacement with their groups.

Source: java.util.regex.Pattern, Matcher.appendReplacement; Kafka's RegexRouter: a name that the expression matches
as a whole has its first match replaced, any other stays as it is.
"""

import re
from collections.abc import Callable

GROUP = re.compile(r"\(\?<([a-zA-Z][a-zA-Z0-9]*)>")
# What Java calls by these names, of ASCII as there without further flags.
_CLASSES = {
    "Lower": "a-z",
    "Upper": "A-Z",
    "Alpha": "a-zA-Z",
    "Digit": "0-9",
    "Alnum": "a-zA-Z0-9",
    "Punct": r"!-/:-@\[-`{-~",
    "XDigit": "0-9a-fA-F",
    "Space": r" \t\n\x0b\f\r",
    "Blank": r" \t",
}
_CLASSES_ELSE = {"h": r" \t\xa0\u1680\u180e\u2000-\u200a\u202f\u205f\u3000", "e": r"\x1b", "a": r"\x07"}
# Of the characters of a class, counted from its bracket.
FIRST_MEMBER = 2
_SAME = frozenset("tnrfdDsSwWbB0123456789")
_REPLACED = re.compile(r"\\(.)|\$\{([a-zA-Z][a-zA-Z0-9]*)\}|\$(?:\{(\d)\}|(\d+))|([\\$])", re.DOTALL)


class RegexError(ValueError):
    """An expression or a replacement that is wrong, or that Python cannot say."""


def pattern(java: str) -> re.Pattern[str]:
    """A pattern that matches what Java's matches.

    Raises:
        RegexError: it is wrong, or has what Python has not.
    """
    try:
        return re.compile("".join(_translated(java)), re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise RegexError(f"{java!r} is no regular expression: {error}") from None


def _translated(java: str) -> list[str]:
    parts, at, in_class = [], 0, 0
    while at < len(java):
        rest = java[at:]
        if rest[0] == "\\":
            part, length = _escape(java, rest, in_class=bool(in_class))
            parts.append(part)
            at += length
            in_class = in_class and FIRST_MEMBER + 2
            continue
        if in_class:
            if rest[0] == "[" or rest.startswith("&&"):
                raise RegexError(f"{java!r} unites or intersects character classes, which Python cannot")
            in_class += 1
            # A bracket that comes first is a member of the class, as in Python's.
            first = in_class == FIRST_MEMBER or (in_class == FIRST_MEMBER + 1 and java[at - 1] == "^")
            if rest[0] == "]" and not first:
                in_class = 0
        elif rest[0] == "[":
            in_class = 1
        elif named := GROUP.match(rest):
            parts.append(f"(?P<{named[1]}>")
            at += named.end()
            continue
        elif rest[0] == ".":
            parts.append(r"[^\n\r\x85\u2028\u2029]")
            at += 1
            continue
        elif rest[0] == "$":
            parts.append(r"(?=(?:\r\n|[\n\r\x85\u2028\u2029])?\Z)")
            at += 1
            continue
        parts.append(rest[0])
        at += 1
    return parts


def _escape(java: str, rest: str, *, in_class: bool) -> tuple[str, int]:
    """An escape in Python, and how long it is in Java."""
    if quoted := re.match(r"\\Q(.*?)(?:\\E|\Z)", rest, re.DOTALL):
        return re.escape(quoted[1]), quoted.end()
    if named := re.match(r"\\k<([a-zA-Z][a-zA-Z0-9]*)>", rest):
        return f"(?P={named[1]})", named.end()
    if named := re.match(r"\\p\{(?:Is|java)?([A-Za-z]+)\}", rest):
        if (members := _CLASSES.get(named[1])) is not None:
            return members if in_class else f"[{members}]", named.end()
    elif code := re.match(r"\\x\{([0-9a-fA-F]+)\}|\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})", rest):
        return re.escape(chr(int(code[1] or code[2] or code[3], 16))), code.end()
    elif len(rest) > 1:
        letter = rest[1]
        if letter in _CLASSES_ELSE:
            return _CLASSES_ELSE[letter] if in_class else f"[{_CLASSES_ELSE[letter]}]", 2
        if letter in _SAME or (letter == "A" and not in_class):
            return rest[:2], 2
        if letter == "z" and not in_class:
            return r"\Z", 2
        if not letter.isalpha():
            return re.escape(letter), 2
    raise RegexError(f"{java!r} has {rest[:8]!r}, which Python's expressions have not")


def router(regex: str, replacement: str) -> Callable[[str], str]:
    """A function from a routed value to the topic's name, as RegexRouter has it.

    Raises:
        RegexError: expression or replacement are wrong, or have what Python has not.
    """
    compiled = pattern(regex)
    template = _template(replacement, compiled)

    def routed(value: str) -> str:
        if compiled.fullmatch(value) is None:
            return value
        return compiled.sub(lambda match: "".join(_said(match, part) for part in template), value, count=1)

    return routed


def _said(match: re.Match[str], part: str | int | tuple[str]) -> str:
    if isinstance(part, str):
        return part
    return match[part[0] if isinstance(part, tuple) else part] or ""


def _template(replacement: str, compiled: re.Pattern[str]) -> list[str | int | tuple[str]]:
    """The replacement's parts: text, the number of a group, or its name in a tuple."""
    parts: list[str | int | tuple[str]] = []
    end = 0
    for found in _REPLACED.finditer(replacement):
        parts.append(replacement[end : found.start()])
        end = found.end()
        escaped, name, digit, digits, _ = found.groups()
        digits = digits or digit
        if escaped is not None:
            parts.append(escaped)
        elif name is not None:
            if name not in compiled.groupindex:
                raise RegexError(f"replacement {replacement!r} names a group {name!r} that the expression has not")
            parts.append((name,))
        elif digits is not None:
            # As many digits as make the number of a group that there is, at least one.
            number = next((d for n in range(len(digits), 0, -1) if int(d := digits[:n]) <= compiled.groups), "")
            if not number:
                raise RegexError(f"replacement {replacement!r} has ${digits}, a group that the expression has not")
            parts += [int(number), digits[len(number) :]]
        else:
            raise RegexError(f"replacement {replacement!r} has a single {found[5]!r}: escape it with a backslash")
    return [part for part in (*parts, replacement[end:]) if part != ""]
