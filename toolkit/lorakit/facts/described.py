"""What a file states of itself as a model: its name, its base, who made it, and on what terms."""

from __future__ import annotations

from lorakit.facts.stated import Statements


def name(stated: Statements) -> str | None:
    return stated.text("ss_output_name", "modelspec.title", "ssmd_display_name", "ss_model_name", "name")


def title(stated: Statements) -> str | None:
    """As its author calls it, rather than what its trainer called the file."""
    return stated.text("modelspec.title", "ssmd_display_name", "ss_model_name", "name", "ss_output_name")


def base_model(stated: Statements) -> str | None:
    return stated.text(
        "peft.base_model_name_or_path", "ss_base_model_version", "modelspec.architecture", "ss_base_model",
        "ss_sd_model_name", "ot.base_model_name", "ot.model_type", "base_model",
    )  # fmt: skip


def author(stated: Statements) -> str | None:
    return stated.text("modelspec.author", "ssmd_author", "author")


def licence(stated: Statements) -> str | None:
    return stated.text("modelspec.license", "license")
