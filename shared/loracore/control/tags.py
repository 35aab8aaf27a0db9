"""What users say of their files: tags and notes of their own."""

from __future__ import annotations

from loracore.control.frame import Struct

#: Files of one request.
MOST_TAGGED = 200


class TagFiles(Struct, frozen=True, tag="tag"):
    """Give files these tags, take those away, and write a note in place of the present one (None: leave it).

    What is said is of their weights: of all files that hold them, wherever those are moved. Up to `MOST_TAGGED`
    paths; nothing to add, remove and note asks what they have.
    """

    paths: list[bytes]
    add: list[str] = []
    remove: list[str] = []
    note: str | None = None


class ListTags(Struct, frozen=True, tag="tags"):
    """The tags that users have given."""


class TaggedFile(Struct, frozen=True):
    """`refused`: why nothing can be said of it; empty where it can."""

    path: bytes
    tags: tuple[str, ...] = ()
    note: str = ""
    refused: str = ""


class TaggedFiles(Struct, frozen=True, tag="tagged"):
    """In the order of the request."""

    files: list[TaggedFile]


class AllTags(Struct, frozen=True, tag="tags"):
    """`tags`: how many models have each, by tag. `away`: of how many of them no file is in view."""

    tags: dict[str, int]
    away: int = 0


TagRequest = TagFiles | ListTags
TagAnswer = TaggedFiles | AllTags
