"""Whether the service is traced, and where its spans go: OpenTelemetry's own environment variables say so.

If they name a place, an SDK is set up for the process, whose sampler, resource, limits and exporter follow from them as everywhere. If
code has set up an SDK before (``opentelemetry-instrument``, or Python of the config directory), that is used. Otherwise
OpenTelemetry is not even loaded.

Specification: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from rowcast.server.tracing import Traces

EXPORTER: Final = "OTEL_TRACES_EXPORTER"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP: Final = "http/protobuf"
OTLP: Final[Mapping[str, str]] = {HTTP: "otlp_proto_http", "grpc": "otlp_proto_grpc"}
SERVICE: Final = "rowcast"  # its name, where the environment has none
_EXPORTERS: Final = "opentelemetry_traces_exporter"  # the entry points
_logger = structlog.get_logger(__name__)


class Untraceable(Exception):
    """The environment names a place for spans, and they cannot be sent there, for this reason."""


def find_traces() -> Traces | None:
    """What records this process; ``None`` if nothing does. If that cannot be set up, the log has the reason."""
    try:
        wanted = exporter_in(os.environ)
        provider = _provider_of_code()
        if provider is None and wanted is not None:
            provider = _set_up(wanted)
    except Untraceable as error:
        _logger.warning("traces_off", reason=str(error))
        return None
    if provider is None:
        return None
    from rowcast.server.tracing import Traces

    return Traces(provider)


def exporter_in(environ: Mapping[str, str]) -> str | None:
    """The name of the exporter that the environment asks for: ``None`` if it asks for none."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name = environ.get(EXPORTER, "").strip().lower()
    if name == "none" or not (name or any(environ.get(each) for each in ENDPOINTS)):
        return None
    if name not in ("", "otlp"):
        return name
    protocol = next((each for each in map(environ.get, PROTOCOLS) if each), HTTP).strip()
    if protocol not in OTLP:
        raise Untraceable(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; valid: {', '.join(OTLP)}")
    return OTLP[protocol]


def _provider_of_code() -> Any:
    """The provider that code has set; ``None`` if it has set none."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider = api.get_tracer_provider()
    return None if isinstance(provider, api.ProxyTracerProvider) else provider


def _set_up(exporter: str) -> Any:
    """Set up the SDK for this process, and return its provider; ``Untraceable`` if that is not possible."""
    from importlib.metadata import entry_points

    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Untraceable(
            f"the environment asks for traces, and {error.name} is not installed: install rowcast[otel], or set {EXPORTER}=none"
        ) from error
    installed = {each.name: each for each in entry_points(group=_EXPORTERS)}
    if exporter not in installed:
        raise Untraceable(f"there is no exporter {exporter}; installed: {', '.join(sorted(installed))}")
    _log_by_ours()
    try:
        processor = BatchSpanProcessor(installed[exporter].load()())
        provider = TracerProvider(resource=Resource.create(_default_name()))
    except ValueError as error:
        raise Untraceable(f"OpenTelemetry refuses a value of its environment variables: {error}") from error
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return provider


def _default_name() -> dict[str, str]:
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {} if named else {"service.name": SERVICE}


class _Ours(logging.Handler):
    """Logs what the SDK logs, such as a collector that does not answer, as the service logs."""

    def emit(self, record: logging.LogRecord) -> None:
        _logger.warning("traces", message=record.getMessage())


def _log_by_ours() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(_Ours(logging.WARNING))
    logger.propagate = False
