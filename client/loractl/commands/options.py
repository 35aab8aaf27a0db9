"""Options that many commands have."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from msgspec import Struct

import loractl
from loracore.errors import NoDaemonError
from loractl import jobs
from loractl.address import find_daemon

if TYPE_CHECKING:
    from loractl.client import Client
    from loractl.view.progress import JobBar

R = TypeVar("R", bound="Struct")
#: Seconds that a daemon that may be there has to take a connection.
_TRIAL = 5.0
#: Seconds after which who looks wants to see how far a job is.
_SOON = 0.4


class Connect(Protocol):
    """Opens a client to the daemon that the options name."""

    def __call__(self, timeout: float | None = 30.0) -> Client: ...


class RunJob(Protocol):
    """Has a job done where the options say, with a bar for who looks. Raises as `loractl.jobs.run_job`.

    With --detach it tells the job's number and ends the command.
    """

    def __call__(self, name: str, parameters: Struct, result: type[R], *, summary: str = "") -> R: ...


class Name(click.Path):
    """A file or folder, whether it is there or not. An empty name would stand for the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("it is empty; name a file or folder.", param, ctx)
        return super().convert(value, param, ctx)


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


def output_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """-o FILE, as `output`."""
    return click.option(
        "-o", "--output", type=Name(dir_okay=False), metavar="FILE", help="Write it to FILE, by its suffix."
    )(function)


def asks_daemon(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where the daemon is, and --json. The command gets `connect` and `as_json`."""

    @wraps(function)
    def command(socket: str | None, server_key: str | None, key_file: str | None, **options: Any) -> Any:
        return function(_connector(socket, server_key, key_file), **options)

    return json_option(_places(command))


def runs_job(function: Callable[..., Any], *, writes_output: bool = True) -> Callable[..., Any]:
    """--local, --detach, options that say where the daemon is, --json. The command gets `run` and `as_json`.

    `writes_output`: whether -o is written by the command, from what the job gives, and not by the job.
    """

    @wraps(function)
    def command(  # noqa: PLR0917 - click hands options over by name
        local: bool,
        detach: bool,
        socket: str | None,
        server_key: str | None,
        key_file: str | None,
        as_json: bool,
        **options: Any,
    ) -> Any:
        if local and detach:
            raise click.UsageError("--detach is for the daemon, --local for this process: leave one of them out.")
        if detach and writes_output and options.get("output"):
            raise click.UsageError("-o is written when the job is done, which --detach does not wait for.")
        connect = _connector(socket, server_key, key_file)
        needs_daemon = detach or socket is not None
        ours = _Runner(connect, local=local, detach=detach, needs_daemon=needs_daemon, as_json=as_json)
        return function(ours, as_json=as_json, **options)

    local = click.option("--local", is_flag=True, help="Do it in this process, also where a daemon runs.")
    detached = click.option(
        "--detach", is_flag=True, help="Have the daemon begin it, and return; `loractl jobs` shows it."
    )
    return json_option(local(detached(_places(command))))


def runs_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """--json. The command gets `run`, which has a job done in this process, and `as_json`."""

    @wraps(function)
    def command(as_json: bool, **options: Any) -> Any:
        connect = _connector(None, None, None)
        ours = _Runner(connect, local=True, detach=False, needs_daemon=False, as_json=as_json)
        return function(ours, as_json=as_json, **options)

    return json_option(command)


class _Runner:
    """`RunJob` by the options."""

    def __init__(self, connect: Connect, *, local: bool, detach: bool, needs_daemon: bool, as_json: bool) -> None:
        self._connect = connect
        self._local = local
        self._detach = detach
        self._needs_daemon = needs_daemon
        self._as_json = as_json

    def __call__(self, name: str, parameters: Struct, result: type[R], *, summary: str = "") -> R:
        if self._detach:
            number = jobs.detach(name, parameters, connect=self._connect, summary=summary)
            text = f"job {number} has begun; `loractl jobs` shows it, `loractl cancel {number}` ends it"
            click.echo(f'{{"id": {number}}}' if self._as_json else text)
            raise SystemExit(0)
        connect = None if self._local else self._reach()
        with _Live(name, not self._as_json) as live:
            return jobs.run_job(name, parameters, result, connect=connect, told=live.told, summary=summary)

    def _reach(self) -> Connect | None:
        """Whether anybody is there is found out before all that it takes to talk is loaded."""
        if self._needs_daemon:
            # Who names a daemon wants that one, and hears if it is not there.
            client = self._connect()
            return lambda timeout=30.0: client
        try:
            find_daemon(None, _TRIAL).close()
        except NoDaemonError:
            return None
        return self._connect


class _Live:
    """Shows how far a job is, to who looks, once it has taken a while."""

    def __init__(self, name: str, shows: bool) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._last: tuple[float, float, str] = (0, 0, "")
        self._bar: JobBar | None = None
        looked_at = shows and sys.stderr.isatty()
        self.told = self._told if looked_at else None
        self._timer = threading.Timer(_SOON, self._show) if looked_at else None

    def __enter__(self) -> _Live:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            if self._bar is not None:
                self._bar.close()

    def _told(self, done: float, total: float, what: str) -> None:
        with self._lock:
            self._last = done, total, what
            if self._bar is not None:
                self._bar.update(done, total, what)

    def _show(self) -> None:
        from loractl.view.progress import JobBar  # noqa: PLC0415 - for a terminal alone

        with self._lock:
            if self._timer is not None and not self._timer.finished.is_set():
                self._bar = JobBar(self._name)
                self._bar.update(*self._last)


def _connector(socket: str | None, server_key: str | None, key_file: str | None) -> Connect:
    def connect(timeout: float | None = 30.0) -> Client:
        return loractl.Client(socket, timeout=timeout, server_key=server_key, key_file=key_file)

    return connect


def _places(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where the daemon is."""
    for option in (
        click.option("--key-file", metavar="F", help="By TCP: our secret key. [default: LORAD_KEY_FILE, or ours]"),
        click.option("--server-key", metavar="K", help="By TCP: the daemon's public key. [env: LORAD_SERVER_KEY]"),
        click.option(
            "--socket",
            type=Name(),
            metavar="S",
            help="The daemon's control.sock, or tcp://host:port. [default: LORAD_SOCKET, or where one runs]",
        ),
    ):
        function = option(function)
    return function
