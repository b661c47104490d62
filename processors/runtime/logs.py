"""Logging of a service: one structured line per event on standard error, as JSON or readable on a terminal.

A line about one message carries its ``payment_id`` and ``trace_id``. What libraries log takes the same form.
"""

import logging
import logging.config
import sys
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict

from broker.records import Record, context_of_record, payment_id_of
from contracts import standard_error
from contracts.redaction import hide_line
from tracing import TraceContext

LIBRARIES_FROM = "WARNING"

TEXT_MAX = 2_000
"""Maximum characters of one field: it may quote a message."""

STACK_MAX = 20_000
"""Maximum characters of a stack trace; its end is kept."""

_service = ""


def _name_service(_logger: object, _method: str, line: EventDict) -> EventDict:
    line.setdefault("service", _service)  # not by a context variable: threads of libraries log as well
    return line


def _bound(_logger: object, _method: str, line: EventDict) -> EventDict:
    for name, value in line.items():
        if isinstance(value, str) and len(value) > TEXT_MAX:
            line[name] = f"…{value[-STACK_MAX:]}" if name == "exception" else f"{value[:TEXT_MAX]}…"
    return line


_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    _name_service,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    _bound,
)


def configure_logs(service: str) -> None:
    """Send structlog and the standard library's warnings to standard error, each line naming the service."""
    global _service
    _service = service
    structlog.configure(
        processors=[*_SHARED, hide_line, _renderer(), hide_line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(standard_error.for_logs()),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(library_logs())


def library_logs() -> dict[str, Any]:
    """The standard library's logging configuration, for Faust's worker, which sets logging up again."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": _formatter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "lines",
                "stream": standard_error.for_logs(),
            }
        },
        "root": {"level": LIBRARIES_FROM, "handlers": ["stderr"]},
    }


def fields_of(context: TraceContext, payment_id: object) -> dict[str, str]:
    """The log fields that identify a withdrawal."""
    found = {"payment_id": str(payment_id)} if payment_id is not None else {}
    return found | ({"trace_id": context.trace_id} if context.trace_id is not None else {})


def fields_of_record(record: Record) -> dict[str, str]:
    """The same for a record, as far as it can be decoded."""
    return fields_of(context_of_record(record), payment_id_of(record))


def _formatter() -> ProcessorFormatter:
    return ProcessorFormatter(
        foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
        processors=[ProcessorFormatter.remove_processors_meta, hide_line, _renderer(), hide_line],
    )


def _renderer() -> Any:
    return structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
