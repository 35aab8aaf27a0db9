"""What a module is called in the original model and in diffusers', where the two differ.

An original module may be several of diffusers' below one another (a fused projection): then its rows are theirs,
in order. The tables stand in `loracore.names.families`, the UNet's rule in `loracore.names.unet`.
"""

from __future__ import annotations

from loracore.names import unet
from loracore.names.families import family_named
from loracore.names.family import Part


def diffusers_names(family: str, original: str) -> tuple[str, ...] | None:
    """Diffusers' modules that the rows of an original one belong to, in order; None where it is none."""
    found = family_named(family).pieces(original)
    return None if found is None else tuple(piece.name for piece in found)


def original_part(family: str, name: str) -> Part | None:
    """Which part of which original module one of diffusers' is; None where it is none."""
    return family_named(family).part(name)


def is_swapped(family: str, original: str, shape: tuple[int, ...]) -> bool:
    """Whether diffusers has the module's halves the other way round: scale and shift of the last modulation."""
    return family_named(family).is_swapped(original, shape)


def original_unet(name: str, family: str) -> str | None:
    """The original name of a module of diffusers' UNet of SD1.5, SD2 or SDXL; None where it is none."""
    return unet.to_original(name, family_named(family).upsampler)
