"""The daemon's configuration: one TOML file, checked whole before anything of it is used.

The structs say which keys there are and what they may hold; `load_config` finds, reads and checks a file;
`describe_changes` says what of another configuration a running daemon can take over. Whether a folder or a
group exists is for those who use them to find out: a file is right or wrong on every machine alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from loracore import toml
from loracore.errors import ConfigError, UsageError
from loracore.paths import default_config_dir, default_runtime_dir, default_state_dir, shown
from loracore.policy import FOR_EQUAL_BYTES
from loracore.settings import (
    NO_DEFAULT,
    ActedLevel,
    Action,
    Folder,
    FreeBelow,
    GpuMegabytes,
    Grace,
    Group,
    Hasher,
    JobMegabytes,
    JobThreads,
    KeepRule,
    Loaders,
    Megabytes,
    Mode,
    OptionalAddress,
    OptionalFolder,
    Pattern,
    Seconds,
    SecondsOrNone,
    Sidecars,
)

SYSTEM_CONFIG = "/etc/lorad/lorad.toml"
#: Tables and keys that a running daemon cannot change: its sockets, its folders, the make-up of its crew.
_NEEDS_RESTART = (
    "state_dir", "runtime_dir", "control", "metrics",
    "pipeline.loaders", "pipeline.hasher", "pipeline.gpu_memory_mb",
)  # fmt: skip


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[watch]`: the folders, and how their files are waited for."""

    roots: tuple[Folder, ...] = ()
    follow_symlinks: bool = False
    #: Names below the roots that are left out; see `loracore.settings.excluded`.
    exclude: tuple[Pattern, ...] = ()
    #: Seconds that a file must be quiet, after it was closed or renamed, before it is read.
    settle_seconds: Seconds = 1.0
    #: The same for a file that nobody was seen to close.
    quiet_seconds: Seconds = 5.0
    #: Seconds between full rescans, varied by a tenth.
    rescan_seconds: Seconds = 3600.0
    #: Seconds between scans where the file system sends no events.
    poll_seconds: Seconds = 60.0
    #: Seconds between signs of life of the watch itself.
    canary_seconds: Seconds = 60.0


class Dedupe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[dedupe]`: what becomes of duplicates (SPEC section 5)."""

    action: Action = "report"
    levels: tuple[ActedLevel, ...] = ("file", "tensors")
    #: In this order; each decides between those that the ones before it leave.
    keep: tuple[KeepRule, ...] = ("final-name", "most-metadata", "oldest", "shortest-path")
    #: Folders in which files may be changed: roots, or below one. All roots where empty.
    scope: tuple[Folder, ...] = ()
    #: Seconds for which a file must not have changed.
    min_age: SecondsOrNone = 0.0
    #: Files beside one that goes (`.txt`, `.preview.png` …): left where they are, or put into quarantine with it.
    sidecars: Sidecars = "keep"
    #: What goes is put aside for so long before it is removed; counted while lorad runs.
    grace: Grace = "7d"
    #: Below this part of free space on a disk, what is put aside there is removed before, the oldest first.
    free_below: FreeBelow = "off"


class Pipeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[pipeline]`. `loaders` 0: the cores less one, at most 4. Limits are of resident memory, 0 for none."""

    loaders: Loaders = 0
    hasher: Hasher = "auto"
    #: What the hasher may take of a GPU's memory besides CUDA's own, in MiB; 0: a fiftieth of what is free, at
    #: most 256.
    gpu_memory_mb: GpuMegabytes = 0
    memory_limit_mb: Megabytes = 2048


class Hashes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[hashes]`: the identity hashes of SPEC section 6."""

    #: Compute them for each file once it is known, in the background, so that `find` answers by them.
    on_arrival: bool = False


class Jobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[jobs]`: bounds of a worker process that runs a job. They hold from the next job on."""

    #: Threads; 0: as many as there are cores.
    threads: JobThreads = 0
    #: Memory that it writes to, in MiB; 0: half of the machine's.
    memory_limit_mb: JobMegabytes = 0


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[control]`. `tcp`, such as `192.0.2.1:5570`, is off unless given; then clients need an allowed key."""

    socket_mode: Mode = "0660"
    socket_group: Group = ""
    tcp: OptionalAddress = ""
    #: Folder with the daemon's key and `allowed/`, the clients' public keys. Default: `keys` in the state folder.
    keys_dir: OptionalFolder = ""


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: a Prometheus text endpoint, off unless an address such as `127.0.0.1:9570` is given."""

    listen: OptionalAddress = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. Folders are absolute; empty ones take their defaults from the environment."""

    state_dir: OptionalFolder = ""
    runtime_dir: OptionalFolder = ""
    watch: Watch = Watch()
    dedupe: Dedupe = Dedupe()
    pipeline: Pipeline = Pipeline()
    hashes: Hashes = Hashes()
    jobs: Jobs = Jobs()
    control: Control = Control()
    metrics: Metrics = Metrics()


class Change(msgspec.Struct, frozen=True):
    """A setting that differs between two configurations. `restart`: it takes effect at the next start only."""

    name: str
    old: Any
    new: Any
    restart: bool

    def __str__(self) -> str:
        when = ", at the next start" if self.restart else ""
        return f"{self.name}: {_said(self.old)} -> {_said(self.new)}{when}"


def find_config(path: str | None = None, *, system: str = SYSTEM_CONFIG) -> str | None:
    """The file to read: `path`, else LORAD_CONFIG, else the system's, else the user's; None without any."""
    given = path or os.environ.get("LORAD_CONFIG")
    if given:
        return given
    places = [system]
    with suppress(UsageError):
        places.append(os.path.join(default_config_dir(), "lorad.toml"))
    return next((each for each in places if _is_there(each)), None)


def load_config(path: str | None = None, *, system: str = SYSTEM_CONFIG) -> Config:
    """What `find_config`'s file says; the defaults without one. Raises ConfigError that names all problems."""
    found = find_config(path, system=system)
    if found is None:
        return Config()
    config, problems = toml.structure(toml.read(found), Config)
    problems += _conflicts(config)
    if problems:
        raise ConfigError(shown(found), problems)
    return config


def with_options(
    config: Config, *, watch: Sequence[str] = (), state_dir: str | None = None, runtime_dir: str | None = None
) -> Config:
    """`config` with what the command line says: `watch` adds roots, folders are relative to the current one.

    A root inside another one is covered by it and left out. (In a file, where all roots stand together, it is
    an error.)
    """
    roots = [*config.watch.roots, *map(os.path.abspath, watch)]
    outer = tuple(
        root
        for place, root in enumerate(roots)
        if not any(
            _inside(root, other) and (root != other or earlier < place) for earlier, other in enumerate(roots)
        )
    )
    return msgspec.structs.replace(
        config,
        watch=msgspec.structs.replace(config.watch, roots=outer),
        state_dir=os.path.abspath(state_dir) if state_dir else config.state_dir,
        runtime_dir=os.path.abspath(runtime_dir) if runtime_dir else config.runtime_dir,
    )


def located(config: Config) -> Config:
    """`config` with no folder left empty: what systemd made for the service, else the user's own folders."""
    # systemd separates several folders by colons; the unit asks for one.
    made = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    state = config.state_dir or made or default_state_dir()
    keys = config.control.keys_dir or os.path.join(state, "keys")
    return msgspec.structs.replace(
        config,
        state_dir=state,
        runtime_dir=config.runtime_dir or default_runtime_dir(state),
        control=msgspec.structs.replace(config.control, keys_dir=keys),
    )


def describe_changes(old: Config, new: Config) -> tuple[Change, ...]:
    """What differs, in the order of the file, and whether it can be taken over at once."""
    return tuple(
        Change(toml.full_name(table, key), before, after, _needs_restart(table, key))
        for table, key in toml.keys(Config)
        if (before := _setting(old, table, key)) != (after := _setting(new, table, key))
    )


def reloaded(old: Config, new: Config) -> Config:
    """What a daemon that runs with `old` uses from now on: `new`, save for what needs a restart."""
    return msgspec.structs.replace(
        new,
        state_dir=old.state_dir,
        runtime_dir=old.runtime_dir,
        control=old.control,
        metrics=old.metrics,
        pipeline=msgspec.structs.replace(
            new.pipeline,
            loaders=old.pipeline.loaders,
            hasher=old.pipeline.hasher,
            gpu_memory_mb=old.pipeline.gpu_memory_mb,
        ),
    )


def dedupe_conflicts(dedupe: Dedupe) -> Iterator[str]:
    """Problems between settings of `[dedupe]`, each beginning with the key that is to be mended."""
    if not dedupe.levels:
        yield 'levels: name at least one, such as ["file"]'
    elif dedupe.action in FOR_EQUAL_BYTES and "file" not in dedupe.levels:
        yield (
            f'levels: {dedupe.action} is for files that are equal byte for byte: add "file", '
            'or set action to "symlink", "quarantine" or "delete"'
        )


def _conflicts(config: Config) -> Iterator[str]:
    """Problems between settings that are right by themselves."""
    roots = config.watch.roots
    for place, root in enumerate(roots):
        if root in roots[:place]:
            yield f"[watch] roots: {shown(root)} is named twice"
            continue
        outer = next((other for other in roots if other != root and _inside(root, other)), None)
        if outer is not None:
            yield f"[watch] roots: {shown(root)} lies inside {shown(outer)} and is watched with it: leave it out"
    if NO_DEFAULT in config.watch.exclude[1:]:
        yield f'[watch] exclude: "{NO_DEFAULT}" puts the list in the place of the default: write it first in it'
    if config.metrics.listen and config.metrics.listen == config.control.tcp:
        yield f"[metrics] listen: {config.metrics.listen} is [control] tcp already: use another port"

    yield from (f"[dedupe] {problem}" for problem in dedupe_conflicts(config.dedupe))
    # Roots may also come from the command line; a file that names none leaves them to it.
    for folder in config.dedupe.scope if roots else ():
        if not any(_inside(folder, root) for root in roots):
            yield f"[dedupe] scope: {shown(folder)} lies in no root of [watch]: name a root, or a folder below one"


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _needs_restart(table: str, key: str) -> bool:
    return table in _NEEDS_RESTART or (f"{table}.{key}" if table else key) in _NEEDS_RESTART


def _setting(config: Config, table: str, key: str) -> Any:
    return getattr(getattr(config, table) if table else config, key)


def _is_there(path: str) -> bool:
    """Whether a file has this name. One that may not be looked at is there: its reader says what is wrong."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_said, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{shown(value)}"' if isinstance(value, str) else str(value)
