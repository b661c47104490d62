"""Sanitizing of foreign text (a provider's, a mail server's), to be stored, published and shown on one line."""

REASON_MAX = 500
"""Maximum characters of a reason from outside."""

REFERENCE_MAX = 200
"""Characters of a provider's reference; those in use have some 40."""


def clean(text: str, max_length: int) -> str:
    """The text on one line, cut, without characters that a database refuses or a terminal interprets.

    Control characters, U+0000, lone surrogates and what changes the direction of text become ``?``, white space of
    any kind a space. A text that was cut ends in ``…``.
    """
    text = text[: max_length + 1]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
