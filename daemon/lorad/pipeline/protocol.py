"""What the core and its children say to each other: MessagePack, typed on both ends, never pickle."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from loracore.identity import Identity as Identity  # noqa: PLC0414 - also imported from here
from loracore.tensorfile import Strides

#: Bytes up to which tasks are of one length: the shortest may be of several files, the others are of one each.
LENGTHS = tuple((16 << 20) * 4**step for step in range(9))


def lane_of(length: int, *, new: bool) -> int:
    """The lane of a task of so many bytes of files that have just come (`new`), or of others.

    A task that is under way gives way to those of lower lanes, and can be cancelled, between two slabs and between
    two files. So how long one file is read does not decide when another one is.
    """
    return 2 * bisect_left(LENGTHS, length) + (not new)


LANES = 2 * len(LENGTHS) + 2
#: Below this lane are the shortest tasks.
SHORT = 2
#: What is below this lane does not take long.
LONG_LANE = lane_of(257 << 20, new=True)
#: From this lane on, a loader digests by itself: what a GPU keeps of a piece grows with it.
OWN_LANE = lane_of(65 << 30, new=True)
#: Larger messages are not accepted by any end. A header of the largest size fits, compressed or not.
MAX_MESSAGE = 256 << 20


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Pieces of these lengths that lie back to back from `offset`, which counts from the target's `base`.

    Where `record` is given, from the first data byte of the zip record whose header lies there. For a layer
    that does not lie in C order, `shape`, `dtype` and `strides` tell how to gather it, `offset` is where its
    first element lies, and the one piece begins at byte `start` of the gathered layer.
    """

    offset: int
    lengths: Sequence[int]
    record: int | None = None
    strides: Strides | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    start: int = 0


class Target(msgspec.Struct, frozen=True, array_like=True):
    """A file to read. `follow`: whether its last name may be a symbolic link. `base`: see `Container`."""

    path: bytes
    identity: Identity
    follow: bool = False
    base: int = 0


class ReadHeaders(msgspec.Struct, frozen=True, array_like=True, tag="headers"):
    task: int
    targets: Sequence[Target]
    lane: int = 0


class ReadPieces(msgspec.Struct, frozen=True, array_like=True, tag="pieces"):
    """Fill slabs with the pieces of these runs, file by file, in this order.

    `runs` holds an encoded list of `Run` for each target: many files share one, so it is encoded once.
    """

    task: int
    targets: Sequence[Target]
    runs: Sequence[bytes]
    sequential: bool
    lane: int = 0


class ReadResidue(msgspec.Struct, frozen=True, array_like=True, tag="residue"):
    task: int
    target: Target
    lane: int = 0


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """End this task, if it has not ended: nothing is wanted of its file any more."""

    task: int


class Credit(msgspec.Struct, frozen=True, array_like=True, tag="credit"):
    """These slabs are yours to fill."""

    slabs: Sequence[int]


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """Send the bodies of layouts and arrangements again: the core may have lost those it got."""


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop"):
    pass


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """A child is there."""

    pid: int


class Using(msgspec.Struct, frozen=True, array_like=True, tag="using"):
    """What the hasher digests with from now on, and in words why, or why not with something else.

    `worse`: it is not what was asked for, or what was used before. `spent`: this process has a place on a GPU
    that it makes no use of, and gives it back only by ending.
    """

    backend: str
    note: str = ""
    worse: bool = False
    spent: bool = False


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a header said. `layout` and `arrangement` come (zlib) when this loader first meets them.

    `function` stands for what it says beside the layout that changes what the layers do; None for nothing.
    `metadata`: how much it says beside the layout, in characters. `facts`: as `loracore.facts` has
    them, encoded; None where nothing is installed that computes them.
    """

    layout_signature: bytes
    layout: bytes | None
    arrangement_signature: bytes
    arrangement: bytes | None
    base: int
    format: str
    residue: bytes | None
    function: bytes | None = None
    metadata: int = 0
    facts: bytes | None = None


#: What is said of a file at which lorad failed by a mistake of its own.
OUR_MISTAKE = "lorad failed at it, which is a mistake in lorad; its log says where: please report that"


class Trouble(msgspec.Struct, frozen=True, array_like=True):
    """Why a file could not be read.

    `kind` is `failed` (its content is bad), `unreadable` (the system would not let us), `ignored` (not ours),
    `changed` (not the file that was meant) or `cancelled` (by the core). `traceback` is for the log, after a
    mistake in lorad.
    """

    kind: str
    reason: str
    traceback: str = ""


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How reading one file went: what it cost, and its header or residue where that was asked for."""

    seconds: float
    bytes_read: int
    read_ns: int
    trouble: Trouble | None = None
    header: Header | None = None
    residue: bytes | None = None


class Filled(msgspec.Struct, frozen=True, array_like=True, tag="filled"):
    """A slab holds these segments, back to back from its start.

    `continued`: the first segment goes on with the piece that the slab before left open. `open`: the last
    one will be continued in the task's next slab. `before`: digests of the pieces before these that the
    loader digested itself.
    """

    task: int
    slab: int
    segments: Sequence[int]
    continued: bool
    open: bool
    before: bytes = b""


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """A task has ended, one outcome for each of its files; all its slabs were handed over before.

    `digests` are those of the pieces after the last slab, which the loader digested itself.
    """

    task: int
    outcomes: Sequence[Outcome]
    digests: bytes = b""


class Digested(msgspec.Struct, frozen=True, array_like=True, tag="digested"):
    """The digests of the pieces that ended in this slab, 32 bytes each; the slab is free again.

    `lost`: there are none, since the beginning of a piece is gone. The task has to be done again.
    """

    task: int
    slab: int
    digests: bytes
    lost: bool = False


class Publish(msgspec.Struct, frozen=True, array_like=True, tag="publish"):
    """Render the newest generation of the catalogue, which is `generation` or a later one.

    `touched` are the names whose row differs in `generation` from what it was in the one that this publisher
    rendered last, at least; None for all of them.
    """

    generation: int = -1
    touched: Sequence[bytes] | None = None


class Published(msgspec.Struct, frozen=True, array_like=True, tag="published"):
    """The JSON files are of this generation now; -1 when unknown.

    It is earlier than the one asked for when the catalogue had gone on already: then `touched` said too little.
    """

    generation: int
    seconds: float
    error: str = ""


ToChild = ReadHeaders | ReadPieces | ReadResidue | Cancel | Credit | Filled | Publish | Forget | Stop
ToCore = Ready | Using | Filled | Done | Digested | Published


encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_to_core = msgspec.msgpack.Decoder(ToCore).decode
