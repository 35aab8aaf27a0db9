"""What the catalogue knows: groups, duplicates, failed files, one file, and files by a hash."""

from __future__ import annotations

from loracore.control.frame import Struct
from loracore.facts import Facts

#: Files that one page of `ListFiles` may have.
MOST_LISTED = 1000
#: Files of one set of `FileSets`.
MOST_IN_SET = 200


class ListGroups(Struct, frozen=True, tag="groups"):
    cursor: str = ""


class ListDuplicates(Struct, frozen=True, tag="duplicates"):
    """`level`: only those of this level; all where it is empty."""

    level: str = ""
    cursor: str = ""


class ListFailed(Struct, frozen=True, tag="failed"):
    cursor: str = ""


class Show(Struct, frozen=True, tag="show"):
    path: bytes


class Find(Struct, frozen=True, tag="find"):
    """`prefix`: the beginning of a hash, at least `MIN_PREFIX` hex digits; `0x` before it is passed over."""

    prefix: str
    cursor: str = ""


class ListFiles(Struct, frozen=True, tag="list"):
    """Files by what they are: those that all terms of the `expression` ask for, see `loracore.expressions`.

    `sort`: a field, and with `-` before it its highest first. `most`: files in a page, at most `MOST_LISTED`.
    `facets`: fields of `FACETS` whose values are counted over all files that are asked for.
    """

    expression: str = ""
    sort: str = "path"
    most: int = 200
    facets: list[str] = []
    cursor: str = ""


class ListRuns(Struct, frozen=True, tag="runs"):
    """The epochs and versions of each training, of the files that an expression (as in `ListFiles`) asks for."""

    expression: str = ""
    cursor: str = ""


class ListNames(Struct, frozen=True, tag="names"):
    """Files of one name that hold different weights, of those that an expression asks for."""

    expression: str = ""
    cursor: str = ""


class ListSearches(Struct, frozen=True, tag="searches"):
    """The expressions that were saved under a name; `@NAME` stands for one in an expression."""


class SaveSearch(Struct, frozen=True, tag="save-search"):
    """Save an expression under a name, in place of what was saved under it; an empty one forgets that."""

    name: str
    expression: str


class Group(Struct, frozen=True):
    """Files of one layout (`signature`: its layout signature), sorted by path."""

    signature: bytes
    paths: list[bytes]


class Groups(Struct, frozen=True, tag="groups"):
    generation: int
    groups: list[Group]
    cursor: str = ""


class DuplicateSet(Struct, frozen=True):
    """Files that hold the same weights as `kept`, each with its level.

    `wasted_bytes` is what the listed ones take beside the kept one; an inode counts once, and so does each block
    that files share. `differing`: those whose header, or `adapter_config.json` beside them, gives the same tensors
    another function; they are not counted.
    """

    kept: bytes
    others: list[tuple[bytes, str]]
    wasted_bytes: int
    differing: list[bytes] = []


class Duplicates(Struct, frozen=True, tag="duplicates"):
    generation: int
    complete: bool
    sets: list[DuplicateSet]
    cursor: str = ""


class FailedFile(Struct, frozen=True):
    path: bytes
    reason: str


class Failed(Struct, frozen=True, tag="failed"):
    generation: int
    files: list[FailedFile]
    cursor: str = ""


class Shown(Struct, frozen=True, tag="shown"):
    """All that is known of one file. Digests and signatures are 32 bytes; None where not known (yet).

    `links` are other names of its inode. `kept` and `duplicates` are its set, as in `duplicates.json`: the file
    itself is among them. `layers` counts them. `hashes` are its identity hashes in hex, those that it has, by the
    names of `Match`; `hashes_error` says why it cannot be hashed. `differing` is that of its `DuplicateSet`. `own`
    and `note` are as in `ListedFile`.
    """

    path: bytes
    status: str
    error: str | None
    size: int
    mtime_ns: int
    format: str | None
    layout: bytes | None
    weights: bytes | None
    layers: int | None
    links: list[bytes]
    kept: bytes | None
    duplicates: list[tuple[bytes, str]]
    load_seconds: float
    hashes: dict[str, str] = {}
    hashes_error: str = ""
    differing: list[bytes] = []
    facts: Facts | None = None
    own: tuple[str, ...] = ()
    note: str = ""


class ListedFile(Struct, frozen=True):
    """`state` is as in processed.json. `facts`: None where its header was not read for them.

    `own` and `note`: the user's own tags and note, see `TagFiles`. `hash`: whether the hash that its header
    states is right, wrong or unchecked; none where it states none.
    """

    path: bytes
    size: int
    mtime_ns: int
    state: str
    format: str | None = None
    facts: Facts | None = None
    own: tuple[str, ...] = ()
    note: str = ""
    hash: str = "none"


class Files(Struct, frozen=True, tag="listed"):
    """`total`: how many files are asked for, in all pages.

    `facets`: how many of them have each value of a field, the most frequent first; "" where it is not known.
    """

    generation: int
    files: list[ListedFile]
    total: int
    facets: dict[str, list[tuple[str, int]]] = {}
    cursor: str = ""


class FileSet(Struct, frozen=True):
    """`name`: of the run, or of all files. `files`: by epoch, steps and path, at most `MOST_IN_SET` of `total`."""

    name: str
    total: int
    files: list[ListedFile]


class FileSets(Struct, frozen=True, tag="file-sets"):
    """Sorted by name; `total`: how many sets there are, in all pages."""

    generation: int
    sets: list[FileSet]
    total: int
    cursor: str = ""


class Searches(Struct, frozen=True, tag="searches"):
    searches: dict[str, str]


class Match(Struct, frozen=True):
    """A file with a hash of this `kind`, in hex.

    `layout`, `weights`, `layer`, or an identity hash: `sha256`, `autov1`, `autov2`, `autov3`, `sshs_model_hash`,
    `sshs_legacy_hash`, `blake3`, `crc32`. Digests of layers are looked through only where no other hash begins so.
    """

    path: bytes
    kind: str
    hash: str


class Found(Struct, frozen=True, tag="found"):
    """`note`: where nothing was found, why identity hashes may be missing, and what to do."""

    matches: list[Match]
    cursor: str = ""
    note: str = ""


LibraryRequest = (
    ListGroups
    | ListDuplicates
    | ListFailed
    | ListFiles
    | ListRuns
    | ListNames
    | ListSearches
    | SaveSearch
    | Show
    | Find
)  # fmt: skip
LibraryAnswer = Groups | Duplicates | Failed | Files | FileSets | Searches | Shown | Found
