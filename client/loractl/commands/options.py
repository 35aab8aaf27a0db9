"""Options that many commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from loractl.client import Client


class Connect(Protocol):
    """Opens a client to the daemon that the options name."""

    def __call__(self, timeout: float | None = 30.0) -> Client: ...


class Seconds(click.FloatRange):
    """A time to wait: up to a year, and a number."""

    def __init__(self) -> None:
        super().__init__(min=0, max=366 * 86400.0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for programs.")(function)


def asks_daemon(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where the daemon is, and --json. The command gets `connect` and `as_json`."""

    @wraps(function)
    def command(socket: str | None, server_key: str | None, key_file: str | None, **options: Any) -> Any:
        def connect(timeout: float | None = 30.0) -> Client:
            from loractl import Client  # noqa: PLC0415 - not loaded for --help

            return Client(socket, timeout=timeout, server_key=server_key, key_file=key_file)

        return function(connect, **options)

    decorated: Callable[..., Any] = command
    for option in (
        click.option("--key-file", metavar="F", help="By TCP: our secret key. [default: LORAD_KEY_FILE, or ours]"),
        click.option("--server-key", metavar="K", help="By TCP: the daemon's public key. [env: LORAD_SERVER_KEY]"),
        click.option(
            "--socket",
            metavar="S",
            help="The daemon's control.sock, or tcp://host:port. [default: LORAD_SOCKET, or where one runs]",
        ),
        json_option,
    ):
        decorated = option(decorated)
    return decorated
