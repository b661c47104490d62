"""Pages of lists: how many entries one has, and where the next one begins."""

from typing import Annotated

from litestar.params import Parameter

PAGE_SIZE, PAGE_MAX = 50, 500
SECONDS_MAX = 10**9
"""Of a time that a filter names, such as how long nothing has happened."""

Limit = Annotated[int, Parameter(ge=1, le=PAGE_MAX, description="How many at the most.")]
Cursor = Annotated[str | None, Parameter(max_length=100, description="As the page before gave it.")]
