"""What is known of a base family: the type of the records in `loracore.names.families`.

In templates of module names `#` stands for a number. "Original" names are those of the model's first publication,
"diffusers" names those of its class there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from itertools import product
from typing import Literal

import msgspec

#: What a mark looks at: modules of a component, what a file says of its base (`words`), or the base model's name.
Seen = Literal["unet", "te1", "te2", "te3", "transformer", "llm", "words", "base"]


class Mark(msgspec.Struct, frozen=True):
    """A sign of a family: a module whose name `name` is found in (a regular expression), and whose ΔW fits.

    Marks are looked for in the order of their numbers, over all families; those of one number together, where the
    first module that has any of them decides. What several families have stands behind what one has alone.
    """

    order: int
    name: str
    seen: Seen = "transformer"
    #: Sizes of ΔW; 0 for any. `width` is the larger of its first two.
    rows: int = 0
    columns: int = 0
    width: int = 0
    dims: int = 0
    #: Whether ΔW has more than one dimension.
    matrix: bool = False
    #: A component that the file has, too.
    beside: str = ""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a ΔW of this shape may be meant."""
        if (self.matrix or self.columns or self.width) and len(shape) < 2:
            return False
        return (
            (not self.rows or shape[0] == self.rows)
            and (not self.columns or shape[1] == self.columns)
            and (not self.width or max(shape[:2]) == self.width)
            and (not self.dims or len(shape) == self.dims)
        )


class Piece(msgspec.Struct, frozen=True):
    """One of diffusers' modules that an original one consists of; `width`: its rows, in multiples of its inputs.

    The last of several has all rows that the others leave.
    """

    name: str
    width: int = 1


class Part(msgspec.Struct, frozen=True):
    """Which part of an original module one of diffusers' is; `of` counts the parts."""

    original: str
    place: int
    of: int


#: Of all numbers in a name, that of the block is the one in which templates of `renamed` differ.
_BLOCK = re.compile(r"(?<=blocks\.)\d+|(?<=layers\.)\d+")


class Family(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A base family. One without marks is never recognised, but its names are known."""

    name: str
    component: Literal["unet", "transformer", "te", "llm"]
    marks: tuple[Mark, ...] = ()
    #: Templates of the modules that a LoRA may adapt.
    original: tuple[str, ...] = ()
    diffusers: tuple[str, ...] = ()
    #: Original templates to diffusers', where the two differ: a fused projection to its parts, in order of rows.
    renamed: Mapping[str, tuple[Piece, ...]] = {}
    #: Original templates of modulations whose halves diffusers has the other way round.
    swapped: frozenset[str] = frozenset()
    #: A regular expression for the beginning of names that the original model alone has.
    only_original: str = ""
    #: First parts of names by which a module is known for one of such a model.
    heads: frozenset[str] = frozenset()
    #: A regular expression for names of its own that begin as another component's do.
    own: str = ""
    #: One for names whose first part does not show the component.
    inside: str = ""
    #: What follows `transformer.` in names of a language model, where it is no prefix.
    starts: tuple[str, ...] = ()
    #: First parts in the order in which data passes them; those that are not listed stand before.
    order: tuple[str, ...] = ()
    #: Beginnings of diffusers' block names, and of the original's, which both are shown as.
    blocks: tuple[tuple[str, str], ...] = ()
    #: Components of the text encoders, in the order of diffusers' pipeline; te1 is CLIP-L, te2 CLIP-G, te3 T5.
    encoders: tuple[str, ...] = ()
    #: Whose names kohya's trainers have, where that is not diffusers' for a UNet and the original's for others.
    trained_as: Literal["", "original", "diffusers"] = ""
    #: What stands before the names of a component in checkpoints of one file.
    prefixes: Mapping[str, tuple[str, ...]] = {}
    #: Ends of canonical names of convolutions (regular expressions), by their kernel's size.
    kernels: Mapping[int, str] = {}
    #: Where the first upsampler of an original UNet stands in its output block.
    upsampler: int = 2
    #: ModelSpec's word for it (github.com/Stability-AI/ModelSpec).
    modelspec: str = ""
    #: Whether others have the same module names, so that the base model's name decides.
    shares_names: bool = False

    def pieces(self, original: str) -> tuple[Piece, ...] | None:
        """Diffusers' modules that the rows of an original one belong to, in order; None where it is none."""
        template, number = _template(original)
        found = self.renamed.get(template)
        return (
            None
            if found is None
            else tuple(Piece(piece.name.replace("#", number), piece.width) for piece in found)
        )

    def widths(self, original: str) -> tuple[int, ...]:
        """Rows of diffusers' modules in an original one, in multiples of its inputs."""
        return tuple(piece.width for piece in self.pieces(original) or ())

    def part(self, name: str) -> Part | None:
        """Which part of which original module one of diffusers' is; None where it is none."""
        template, number = _template(name)
        found = self._parts.get(template)
        return None if found is None else Part(found.original.replace("#", number), found.place, found.of)

    def is_swapped(self, original: str, shape: tuple[int, ...]) -> bool:
        """Whether diffusers has the halves of a module with this ΔW, scale and shift, the other way round."""
        return len(shape) == 2 and shape[0] == 2 * shape[1] and _template(original)[0] in self.swapped

    @cached_property
    def _parts(self) -> Mapping[str, Part]:
        return {
            piece.name: Part(original, place, len(pieces))
            for original, pieces in self.renamed.items()
            for place, piece in enumerate(pieces)
        }


def _template(name: str) -> tuple[str, str]:
    number = _BLOCK.search(name)
    return (name, "") if number is None else (_BLOCK.sub("#", name, count=1), number[0])


def templates(*parts: str) -> tuple[str, ...]:
    """Every name of `a|b` `c|d` …, joined by dots; an empty alternative leaves its part out."""
    return tuple(
        ".".join(part for part in chosen if part) for chosen in product(*(part.split("|") for part in parts))
    )


def pieces(*names: str) -> tuple[Piece, ...]:
    """Modules that are as many rows of an original one as it has inputs; or the only one."""
    return tuple(map(Piece, names))


def attention(original: str, theirs: str, *, added: bool = False) -> dict[str, tuple[Piece, ...]]:
    """What `renamed` has for the attention of a stream; `added`: the text's, which joins the image's."""
    names = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out") if added else _ATTENTION
    *qkv, out = (f"{theirs}.{name}" for name in names)
    return {f"{original}.qkv": pieces(*qkv), f"{original}.proj": pieces(out)}


_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
#: Of diffusers' attention: one stream, and what a joint attention has for the other.
ATTENTION = "to_q|to_k|to_v|to_out.#"
JOINT = f"{ATTENTION}|add_q_proj|add_k_proj|add_v_proj|to_add_out"
NORMS = "norm_q|norm_k"
#: Of its feed-forward layers.
FEED = "net.#.proj|net.#"
