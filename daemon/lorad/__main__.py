"""`lorad`: the daemon, in the foreground. systemd runs the same command.

What is imported here delays the start of the children, so it is little; `lorad.supervisor` does the work.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from functools import partial

from loracore import __version__
from loracore.causes import explained
from loracore.config import Config, load_config, located, with_options
from loracore.errors import LoraError, MissingPackage, StateLocked, UsageError, need
from loracore.paths import speak_utf8
from lorad.control.sockets import raise_limit
from lorad.pipeline.launch import Crew
from lorad.state_folder import locked
from lorad.supervisor.systemd import Notifier, block
from lorad.watch.timed_calls import real

_FAILED = 1
_BAD_INPUT = 2
_REFUSED = 5


def main() -> None:
    # Where standard streams are closed, what is opened next would be taken for them, here and in the children.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    speak_utf8("lorad")
    try:
        options = _options(sys.argv[1:])
        need("daemon", "lorad")
        raise_limit()
        sys.exit(_run(options))
    except (UsageError, MissingPackage) as error:
        # The one thing that another start cannot mend, which systemd is told by the exit status.
        _give_up(error, _BAD_INPUT)
    except StateLocked as error:
        _give_up(error, _REFUSED)
    except (LoraError, OSError) as error:
        _give_up(error, _FAILED)


def _run(options: argparse.Namespace) -> int:
    block()
    # Nobody else is to change what is made here, whatever the umask was.
    os.umask(os.umask(0o022) | 0o022)
    config = read_config(options)
    _check(config)
    # Before systemd's variables are taken out of the environment.
    reload = partial(read_config, options) if _reloads(options) else None
    # Sockets that others find lie in the runtime folder; two daemons must not rob each other of them.
    with (
        locked(config.state_dir),
        locked(config.runtime_dir, option="--runtime-dir"),
    ):
        # Before the children start, so that they do not inherit its address.
        notifier = Notifier()
        crew = Crew(
            config.runtime_dir,
            config.state_dir,
            loaders=config.pipeline.loaders or min(4, max(1, (os.cpu_count() or 1) - 1)),
            hasher=config.pipeline.hasher,
            gpu_memory_mb=config.pipeline.gpu_memory_mb,
        )
        from lorad.supervisor.logs import set_up  # noqa: PLC0415
        from lorad.supervisor.loop import Daemon  # noqa: PLC0415 - the children start meanwhile

        set_up(options.log_format)
        return Daemon(config, crew, notifier, reload).run()


def read_config(options: argparse.Namespace) -> Config:
    """The configuration file, with what the command line says put over it. Raises ConfigError."""
    config = load_config(options.config)
    return located(
        with_options(config, watch=options.watch, state_dir=options.state_dir, runtime_dir=options.runtime_dir)
    )


def _reloads(options: argparse.Namespace) -> bool:
    """Whether SIGHUP has the configuration read again; else it is that of a terminal that closes, and ends us.

    systemd, and those who run it as a service by other means, give no terminal. `nohup` asks to stay.
    """
    if "NOTIFY_SOCKET" in os.environ or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return options.config is not None or "INVOCATION_ID" in os.environ
    return False


def _give_up(error: Exception, status: int) -> None:
    text = str(error)
    if isinstance(error, OSError):
        text = ": ".join(str(part) for part in (error.filename, explained(error)) if part)
    print(f"lorad: {os.fsencode(text).decode('utf-8', 'backslashreplace')}", file=sys.stderr)
    sys.exit(status)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lorad",
        description="Watch folders of LoRA files, and keep current which of them hold the same weights.",
        epilog="TERM and INT stop it. HUP reads the configuration again under systemd, or with --config and no "
        "terminal; else it stops it, as a terminal does that is closed. `loractl status` shows what it does.",
    )
    parser.add_argument("--config", metavar="F", help="configuration file (default: see docs/install.md)")
    parser.add_argument(
        "--watch", metavar="DIR", action="append", help="a folder to watch, beside those in the configuration"
    )
    parser.add_argument("--state-dir", metavar="D", help="where the catalogue and the JSON files are kept")
    parser.add_argument("--runtime-dir", metavar="D", help="where the sockets are")
    parser.add_argument("--log-format", choices=["json", "console"], help="how lines on standard error look")
    parser.add_argument("--version", action="version", version=f"lorad {__version__}")
    options = parser.parse_args(arguments)
    for name in ("config", "watch", "state_dir", "runtime_dir"):
        given = getattr(options, name)
        if given == "" or (isinstance(given, list) and "" in given):
            raise UsageError(f"--{name.replace('_', '-')} is empty: give a name, or leave it out")
    # The current folder will be another one, and at SIGHUP all this is read again.
    options.config = _absolute(options.config or os.environ.get("LORAD_CONFIG"))
    options.watch = [os.path.abspath(folder) for folder in options.watch or ()]
    options.state_dir, options.runtime_dir = _absolute(options.state_dir), _absolute(options.runtime_dir)
    return options


def _absolute(path: str | None) -> str | None:
    return os.path.abspath(path) if path else None


def _check(config: Config) -> None:
    """Raises UsageError for folders that cannot be one."""
    state_dir = os.path.realpath(config.state_dir)
    if state_dir == os.path.realpath(config.runtime_dir):
        raise UsageError(f"{config.state_dir}: state and runtime folder cannot be one; give another --runtime-dir")
    if os.fsencode(state_dir) in (real(os.fsencode(root)) for root in config.watch.roots):
        raise UsageError(f"{config.state_dir}: the state folder cannot be watched; give another --state-dir")


if __name__ == "__main__":
    main()
