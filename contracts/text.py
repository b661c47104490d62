"""Foreign text (a provider's, a mail server's) made fit to be stored, published and shown on one line."""

REASON_MAX = 500
"""Characters of a reason that somebody else gives."""

REFERENCE_MAX = 200
"""Characters of a provider's reference; those in use have some 40."""


def clean(text: str, max_length: int) -> str:
    """The text on one line, without what could be refused by a database or act on a terminal, and cut.

    Control characters, U+0000, lone surrogates and what changes the direction of text become ``?``, white space of
    any kind a space. A text that was cut ends in ``…``.
    """
    text = text[: max_length + 1]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
