"""What a file is, by its header alone: the facts by which a library is listed and searched (SPEC section 4).

They are computed where the header is read (the toolkit's `lorakit.facts`, found by the entry point `GROUP`), kept
in the catalogue, and shown by `loractl list` and `show`.
"""

from __future__ import annotations

import msgspec

#: Facts of another version are computed anew.
VERSION = 2
#: The group of entry points that compute facts: a function of a `Container` and the file's path.
GROUP = "lorad.facts"


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """None, or empty: it is not known, or not stated. Texts are the file's own, of bounded length.

    By names and shapes: `family`, `algorithm` (several joined by `+`, the most frequent first), `convention`,
    `rank` and `min_rank` (the highest and the lowest), `modules`, `dtype` (of most matrices), `components`.
    `sound`: nothing in the header keeps it from being used; `problem` is the first line of what does, or of what
    is odd. As it is stated: all others. `base_file`: the file or the name of the base model, whose version
    `base` may be. `alpha`: tensors are not read for it. `epoch` and `steps`: after which it was saved.
    `model_hash`: what the header says that `sshs_model_hash` is. `tags`: the most frequent, with how many images
    have each.
    """

    family: str | None = None
    algorithm: str | None = None
    convention: str | None = None
    rank: int | None = None
    min_rank: int | None = None
    alpha: float | None = None
    modules: int = 0
    components: tuple[str, ...] = ()
    dtype: str | None = None
    sound: bool = True
    problem: str | None = None
    base: str | None = None
    base_file: str | None = None
    title: str | None = None
    author: str | None = None
    trainer: str | None = None
    triggers: tuple[str, ...] = ()
    tags: tuple[tuple[str, int], ...] = ()
    epoch: int | None = None
    steps: int | None = None
    date: str | None = None
    licence: str | None = None
    output: str | None = None
    session: str | None = None
    model_hash: str | None = None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Facts)


def encode(facts: Facts) -> bytes:
    return _ENCODER.encode(facts)


def decode(encoded: bytes) -> Facts:
    """Raises msgspec.MsgspecError for what is none."""
    return _DECODER.decode(encoded)
