"""The daemon's configuration: one TOML file, checked whole before anything of it is used."""

from __future__ import annotations

import msgspec


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[watch]`: the folders, and how their files are waited for."""

    roots: tuple[str, ...] = ()
    follow_symlinks: bool = False
    #: Seconds that a file must be quiet, after it was closed or renamed, before it is read.
    settle_seconds: float = 1.0
    #: The same for a file that nobody was seen to close.
    quiet_seconds: float = 5.0
    #: Seconds between full rescans, varied by a tenth.
    rescan_seconds: float = 3600.0
    #: Seconds between scans where the file system sends no events.
    poll_seconds: float = 60.0
    #: Seconds between signs of life of the watch itself.
    canary_seconds: float = 60.0


class Pipeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[pipeline]`. `loaders` 0: the cores less one, at most 4. Limits are of resident memory, 0 for none."""

    loaders: int = 0
    hasher: str = "auto"
    memory_limit_mb: int = 2048


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[control]`. `tcp`, such as `192.0.2.1:5570`, is off unless given; then clients need an allowed key."""

    socket_mode: str = "0660"
    socket_group: str = ""
    tcp: str = ""
    #: Folder with the daemon's key and `allowed/`, the clients' public keys. Default: `keys` in the state folder.
    keys_dir: str = ""


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: a Prometheus text endpoint, off unless an address such as `127.0.0.1:9570` is given."""

    listen: str = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. Folders are absolute; empty ones take their defaults from the environment."""

    state_dir: str = ""
    runtime_dir: str = ""
    watch: Watch = Watch()
    pipeline: Pipeline = Pipeline()
    control: Control = Control()
    metrics: Metrics = Metrics()
