"""``rowcast reload``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import click

from rowcast.commands.common import CONFIG
from rowcast.configuration.load import load_settings
from rowcast.errors import ConfigurationError
from rowcast.server.running import RunningService, now, running_services

POLL_SECONDS: Final = 0.05


@click.command()
@CONFIG
@click.option("--pid", type=int, help="The process to signal.  [default: the services of this config directory]")
@click.option("--timeout", default=60.0, show_default=True, help="How many seconds to wait for the result.")
def reload(config: Path, pid: int | None, timeout: float) -> None:
    """Apply a changed config to the running service, and wait for the result; exits 1 if it is rejected.

    Services of other config directories, working directories or hosts take SIGHUP, without a result: kill -HUP PID.
    """
    found = _services(config, pid)
    began = now()
    for service in found:
        try:
            os.kill(service.pid, signal.SIGHUP)
        except PermissionError:
            raise ConfigurationError(
                f"process {service.pid} belongs to another account; run this command as it"
            ) from None
    rejected = False
    for service in found:
        problems = _result(service, began, began + timeout)
        for problem in problems:
            click.echo(problem, err=True)
        click.echo(f"Process {service.pid} {'keeps its last good config' if problems else 'has the new config'}.")
        rejected |= bool(problems)
    if rejected:
        sys.exit(1)


def _services(config: Path, pid: int | None) -> list[RunningService]:
    """The services to reload; ``ConfigurationError`` if there are none."""
    data = load_settings(config, environ=os.environ).database.data
    services = running_services(data)
    if pid is not None:
        found = [service for service in services if service.pid == pid]
        message = f"process {pid} is not a service that was started here; `kill -HUP {pid}` signals any process"
    else:
        found = [service for service in services if service.config == config.resolve()]
        message = (
            f"no service of {config} has its file in {data}; `kill -HUP PID` signals one that was started elsewhere"
        )
    if not found:
        others = ", ".join(f"{service.pid} ({service.config})" for service in services)
        raise ConfigurationError(f"{message}. Found here: {others}" if others else message)
    return found


def _result(service: RunningService, began: float, until: float) -> list[str]:
    """The problems that a service has found, each once."""
    while now() < until and service.alive:
        outcomes = service.outcomes(began)
        if len(outcomes) == service.processes:
            return list(dict.fromkeys(problem for outcome in outcomes for problem in outcome.problems))
        time.sleep(POLL_SECONDS)
    return ["There is no result yet; the service's log will have it." if service.alive else "The service has ended."]
