"""The OpenAPI 3.1 document of the API, as the repository has it and as it is served.

It is made of the routes by ``python -m api.generate``, so that a change of the API is seen in its review; a test
compares the two.
"""

from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("openapi.json")


@cache
def document() -> bytes:
    """The document as it is served."""
    return FILE.read_bytes()
