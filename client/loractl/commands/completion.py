"""`loractl completion`: the shell's help with typing."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_LORACTL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and options.

    \b
    bash: loractl completion bash > ~/.local/share/bash-completion/completions/loractl
    zsh:  loractl completion zsh > "${fpath[1]}/_loractl"
    fish: loractl completion fish > ~/.config/fish/completions/loractl.fish
    """  # noqa: D301 - click reads \b
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "loractl", VARIABLE).source())
