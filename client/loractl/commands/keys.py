"""`loractl keys`: who may use a daemon by TCP."""

from __future__ import annotations

import os

import click

from loracore.paths import default_config_dir, default_state_dir
from loractl.commands.options import json_option
from loractl.keys import allow as allow_key
from loractl.keys import make_pair, public_keys
from loractl.view.forms import print_json
from loractl.view.tables import Column, show_table

_NAME = click.option("--name", metavar="N", default="client", show_default=True, help="What the key is called.")
_KEYS_DIR = click.option(
    "--keys-dir", metavar="D", help="The daemon's keys: [control] keys_dir. [default: keys in the state folder]"
)


@click.group()
def keys() -> None:
    """Make, show and allow keys, for daemons that are used by TCP.

    The client makes its key and tells its public half; on the daemon's machine that is allowed. Then the
    client uses the daemon with --socket tcp://host:port --server-key KEY.
    """


@keys.command()
@_NAME
@json_option
def make(name: str, as_json: bool) -> None:
    """Make a key for this user, and print its public half."""
    made = make_pair(default_config_dir(), name)
    if as_json:
        _print([made._asdict()])
    else:
        click.echo(made.key)
        click.echo(f"made {made.path}_secret; on the daemon's machine: loractl keys allow '{made.key}'", err=True)


@keys.command()
@_KEYS_DIR
@json_option
def show(keys_dir: str | None, as_json: bool) -> None:
    """Show public keys: ours, the daemon's on this machine, and those that it allows."""
    theirs = keys_dir or os.path.join(default_state_dir(), "keys")
    kinds = (("ours", default_config_dir()), ("daemon", theirs), ("allowed", os.path.join(theirs, "allowed")))
    found = [(kind, key) for kind, folder in kinds for key in public_keys(folder)]
    if as_json:
        _print([{"kind": kind, **key._asdict()} for kind, key in found])
    elif found:
        columns = [Column("whose"), Column("name"), Column("public key"), Column("file", folds=True)]
        show_table(columns, ((kind, *key) for kind, key in found))
    else:
        click.echo("no keys yet; `loractl keys make` makes one", err=True)


# One key in 85 begins with a hyphen.
@keys.command(context_settings={"ignore_unknown_options": True})
@click.argument("key")
@_NAME
@_KEYS_DIR
@json_option
def allow(key: str, name: str, keys_dir: str | None, as_json: bool) -> None:
    """Let the client with the public KEY (or key file) use the daemon on this machine.

    It may from now on. To take it back, delete the file and reload the daemon.
    """
    allowed = allow_key(key, keys_dir or os.path.join(default_state_dir(), "keys"), name)
    if as_json:
        _print([allowed._asdict()])
    else:
        click.echo(f"allowed by {allowed.path}", err=True)


def _print(found: list[dict[str, str]]) -> None:
    print_json({"keys": found})
