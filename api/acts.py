"""What routes have in common that act on a list of things, each of them named."""

from typing import Any

from api import access
from api.bodies import LIST_BYTES_MAX
from api.guard import PERMISSION
from api.problems import OF_A_BODY, problems

ON_A_LIST: dict[str, Any] = {
    "status_code": 200,
    "tags": ["operations"],
    "opt": {PERMISSION: access.OPERATE},
    "request_max_body_size": LIST_BYTES_MAX,
    "responses": problems(*OF_A_BODY),
}
"""Options of such a route's handler."""
