"""The block that a module belongs to, and the order in which data passes modules."""

from __future__ import annotations

import re

from loracore.names.families import family_named, positions

_UNET_BLOCK = re.compile(r"(?:down_blocks|up_blocks)\.\d+|mid_block")
_TEXT_LAYER = re.compile(r"\.(?:layers|block)\.(\d+)")
_LANGUAGE_PREFIX = re.compile(r"^(?:model\.|transformer\.|base_model\.)+")
_FIRST_NUMBER = re.compile(r"(.*?[._])?\d+(?=[._]|$)")


def block_of(component: str, name: str, family: str) -> str:
    """The UNet or transformer block that a module belongs to; its first part where it stands outside of all."""
    if component == "unet" and (match := _UNET_BLOCK.match(name)):
        return match[0]
    if component.startswith("te"):
        match = _TEXT_LAYER.search(name)
        return f"{component}.layers.{match[1]}" if match else component
    if component == "llm":
        name = _LANGUAGE_PREFIX.sub("", name)
    match = _FIRST_NUMBER.match(name)
    if match is None:
        return name.split(".", 1)[0]
    for theirs, ours in family_named(family).blocks:
        if match[0].startswith(theirs):
            return ours + match[0][len(theirs) :]
    return match[0]


_COMPONENTS = {name: index for index, name in enumerate(("te1", "te2", "te3", "unet", "transformer", "llm"))}
_PIECES = re.compile(r"\d+|\D+")
#: A name that is digits all along would cost quadratic time to turn into a number.
_MAX_DIGITS = 18

OrderKey = tuple[int, int, tuple[tuple[int, int, str], ...]]


def order_key(component: str, name: str) -> OrderKey:
    """Sorts modules as data flows through the model: components, parts of a UNet, then numbers as numbers."""
    head = name.split(".", 1)[0]
    pieces = tuple(
        (0, int(piece), "") if piece.isdecimal() and len(piece) <= _MAX_DIGITS else (1, 0, piece)
        for piece in _PIECES.findall(name)
    )
    return (_COMPONENTS.get(component, len(_COMPONENTS)), positions().get(head, 0), pieces)
