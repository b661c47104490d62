"""What a list of requirements brings, according to what is installed here: names of distributions."""

from collections.abc import Iterable
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(requirements: Iterable[str]) -> set[str]:
    """The names, canonical, of all distributions that these requirements need on this machine, directly or not.

    Raises:
        PackageNotFoundError: one is not installed here.
    """
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                needed = [Requirement(text) for text in distribution(name).requires or ()]
                todo += [one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})]
    return found
