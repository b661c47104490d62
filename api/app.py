"""The application: its routes, and what holds for all of them."""

from collections.abc import Sequence

import psycopg
from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp

from api import (
    accounts,
    audits,
    cancel,
    dead_letters,
    flow,
    gaps,
    journal,
    keys,
    lists,
    outboxes,
    people,
    problems,
    republish,
    statuses,
    stuck,
    topics,
    traces,
    withdrawals,
)
from api.bodies import BODY_BYTES_MAX, StrictRequest
from api.console import accounts as accounts_page
from api.console import audit as audit_page
from api.console import dead_letters as dead_letters_page
from api.console import errors, frame, operator_log, settings, static_files, withdrawal
from api.console import flow as flow_page
from api.console import outboxes as outboxes_page
from api.console import stuck as stuck_page
from api.console import withdrawals as withdrawals_page
from api.front import Front
from api.guard import guarded
from api.instrumentation import measured
from api.short import shortened

PARTS = (
    withdrawals,
    statuses,
    lists,
    cancel,
    accounts,
    stuck,
    republish,
    dead_letters,
    outboxes,
    flow,
    gaps,
    topics,
    traces,
    audits,
    journal,
    keys,
    people,
)
"""The modules with routes."""

PAGES = (
    frame,
    flow_page,
    withdrawals_page,
    withdrawal,
    stuck_page,
    dead_letters_page,
    outboxes_page,
    accounts_page,
    audit_page,
    operator_log,
    settings,
    static_files,
)
"""Those with the console's pages."""


def make_app(front: Front, further: Sequence[HTTPRouteHandler] = ()) -> ASGIApp:
    """The application for a server, to be run between the front's ``start`` and ``close``.

    Args:
        front: what the handlers share.
        further: handlers beside the API's own.
    """
    return measured(shortened(make_litestar(front, further=further)))


def make_litestar(
    front: Front | None, openapi: OpenAPIConfig | None = None, further: Sequence[HTTPRouteHandler] = ()
) -> Litestar:
    """The same without metrics; without a front only its documentation can be asked for."""
    return Litestar(
        [*(route for part in (*PARTS, *PAGES) for route in part.ROUTES), *further],
        state=State({"front": front}),
        middleware=[guarded],
        request_class=StrictRequest,
        request_max_body_size=BODY_BYTES_MAX,
        exception_handlers={
            problems.Problem: errors.for_people(problems.on_problem),
            HTTPException: errors.for_people(problems.on_http_error),
            psycopg.errors.InsufficientPrivilege: errors.for_people(problems.on_missing_right),
            psycopg.DataError: errors.for_people(problems.on_unstorable),
            UnicodeEncodeError: errors.for_people(problems.on_unstorable),
            Exception: errors.for_people(problems.on_error),
        },
        openapi_config=openapi,
        logging_config=None,
    )
