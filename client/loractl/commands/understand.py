"""`loractl hashes` and `metadata`: what a file is, and what it says about itself."""

from __future__ import annotations

import json

import click

from loracore.jobs.hashes import HashesParameters, HashesResult
from loracore.jobs.metadata import MetadataParameters, MetadataResult
from loracore.jobs.results import plain
from loracore.paths import absolute, shown
from loractl.commands.options import Name, RunJob, output_option, runs_job
from loractl.view import metadata as facts
from loractl.view import tables
from loractl.view.tables import size


@click.command()
@runs_job
@click.argument("file", type=Name())
def hashes(run: RunJob, as_json: bool, file: str) -> None:
    """All identity hashes of FILE: SHA256, AutoV1 to V3, those of sd-webui-additional-networks, BLAKE3, CRC32.

    They are computed from its bytes in one read, and never taken from its header.
    """
    found = run("hashes", HashesParameters(absolute(file)), HashesResult, summary=shown(file))
    if as_json:
        print(json.dumps(plain(found)), flush=True)
        return
    columns = [tables.Column("hash"), tables.Column("", folds=True)]
    rows = [
        ("file", shown(found.path)),
        ("size", f"{size(found.size)} ({found.size:,} bytes)"),
        ("SHA256", found.sha256),
        ("AutoV1", found.autov1 or "none: the file is too small"),
        ("AutoV2", found.autov2),
        ("AutoV3", found.autov3 or "none: no safetensors"),
        ("sshs_model_hash", found.sshs_model_hash or "none: no safetensors"),
        ("sshs_legacy_hash", found.sshs_legacy_hash or "none"),
        ("BLAKE3", found.blake3),
        ("CRC32", found.crc32),
    ]
    tables.show_table(columns, rows)
    for warning in found.warnings:
        click.echo(f"warning: {shown(warning)}", err=True)


@click.command()
@runs_job
@output_option
@click.option("--values", is_flag=True, help="Look for NaN and Inf too, which reads all of the file.")
@click.argument("file", type=Name())
def metadata(run: RunJob, as_json: bool, file: str, output: str | None, values: bool) -> None:
    """What FILE, or a PEFT adapter folder, is, how it was trained, and whether it is sound.

    Ranks and algorithms are read from names and shapes; where the metadata say otherwise, that is a warning.
    -o writes all of it: .json, .txt or .md.
    """
    if output is not None:
        facts.check_output(output)
    wanted = MetadataParameters(absolute(file), values)
    found = run("metadata", wanted, MetadataResult, summary=shown(file))
    if output is not None:
        facts.export(found, output)
        click.echo(f"written: {shown(output)}", err=True)
    if as_json:
        print(json.dumps(plain(found)), flush=True)
        return
    if output is None:
        columns = [tables.Column("what"), tables.Column("", folds=True)]
        for number, (title, rows) in enumerate(facts.sections(found, brief=True)):
            click.echo("" if number else None, nl=bool(number))
            tables.show_table(columns, rows, title=title)
