"""Set-up of tracing in a process: exporter and sampling.

Configured by OpenTelemetry's own environment variables: without an OTLP endpoint nothing is exported, at no
cost.
"""

import random

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tracing.delivery import BoundedSpans
from tracing.recording import Recorder


class TracingSettings(BaseSettings):
    """The OpenTelemetry variables that Settle reads itself; the exporter reads ``OTEL_EXPORTER_OTLP_*``."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", env_ignore_empty=True, extra="ignore")

    exporter_otlp_endpoint: str | None = Field(None, description="OTLP/HTTP collector, http://host:4318")
    exporter_otlp_traces_endpoint: str | None = Field(None, description="for traces alone, full path")
    traces_sampler_arg: float = Field(1.0, ge=0, le=1, description="share of withdrawals traced, 0 to 1")
    sdk_disabled: bool = False

    @field_validator("exporter_otlp_endpoint", "exporter_otlp_traces_endpoint")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("not a URL such as http://127.0.0.1:4318")
        return url

    @property
    def endpoint(self) -> str | None:
        """Where spans are sent, full path; None where tracing is off."""
        if self.sdk_disabled:
            return None
        if self.exporter_otlp_traces_endpoint or not self.exporter_otlp_endpoint:
            return self.exporter_otlp_traces_endpoint or None
        return f"{self.exporter_otlp_endpoint.rstrip('/')}/v1/traces"


_recorder: Recorder | None = None
_ratio = 0.0


def configure(
    service: str, *, settings: TracingSettings | None = None, exporter: SpanExporter | None = None
) -> None:
    """Name this process ``settle-<service>`` and start exporting, if a collector is configured.

    Args:
        service: ``account``, ``relay``, ``producer`` …
        settings: instead of those of the environment.
        exporter: instead of the OTLP exporter (tests).
    """
    global _recorder, _ratio
    shutdown()
    settings = settings or TracingSettings()
    if exporter is None:
        if settings.endpoint is None:
            return
        from tracing.otlp import FastExporter  # here, as only processes that export need it

        exporter = FastExporter(settings.endpoint)
    spans = BoundedSpans(exporter, settings.endpoint or "its own address")
    _recorder = Recorder(Resource.create({"service.name": f"settle-{service}"}), spans)
    _ratio = settings.traces_sampler_arg


def enabled() -> bool:
    """Whether this process exports spans."""
    return _recorder is not None


def sample() -> bool:
    """Decide for a new withdrawal whether it is traced (``OTEL_TRACES_SAMPLER_ARG``, default 1.0)."""
    return _recorder is not None and (_ratio >= 1.0 or random.random() < _ratio)  # noqa: S311 nobody gains by guessing it


def recorder() -> Recorder | None:
    """The recorder of this process's spans; None unless :func:`enabled`."""
    return _recorder


def shutdown() -> None:
    """Send what is queued (for a few seconds at the most) and stop exporting."""
    global _recorder, _ratio
    before, _recorder, _ratio = _recorder, None, 0.0
    if before is not None:
        before.shutdown()
