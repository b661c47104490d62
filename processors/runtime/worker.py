"""The worker process of a processor: ``settle run account``, or Faust's own ``faust -A … worker``."""

import importlib

import faust
import structlog
import uvloop

from processors.runtime.logs import configure_logs, library_logs


def load_app(service: str) -> faust.App:
    """The Faust app of a service: ``processors.<service>.processor.app``."""
    app: faust.App = importlib.import_module(f"processors.{service}.processor").app
    return app


def run_service(service: str) -> None:
    """Run a service until SIGTERM or SIGINT, then finish the batch under way and leave.

    Raises:
        SystemExit: with the worker's exit code, at the end.
    """
    uvloop.install()
    configure_logs(service)
    app = load_app(service)
    # The worker configures logging again; by default, not as lines of JSON.
    worker = faust.Worker(app, loglevel="WARN", quiet=True, redirect_stdouts=False, logging_config=library_logs())
    worker.spinner = None
    structlog.get_logger().info("service starts")
    worker.execute_from_commandline()
