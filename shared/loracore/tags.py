"""What a user says of a model: tags and a note of their own (SPEC section 4), of its weights and not of a name."""

from __future__ import annotations

import msgspec

from loracore.errors import UsageError

#: Characters of a tag and of a note, and tags of one file.
LONGEST_TAG, LONGEST_NOTE, MOST_TAGS = 100, 4000, 100
#: They join letters, or keep them apart, in many scripts and in emoji, and are not printed.
_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))


class Tags(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """Tags in the order in which they were given, each once, whatever its case."""

    tags: tuple[str, ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.tags or self.note)

    def changed(self, add: list[str], remove: list[str], note: str | None) -> Tags:
        """With these, without those; `note` in place of its note, None to leave that. Raises UsageError."""
        gone = {tag.casefold() for tag in remove}
        tags = {tag.casefold(): tag for tag in self.tags if tag.casefold() not in gone}
        for tag in add:
            tags.setdefault(tag.casefold(), tag)
        if add and len(tags) > MOST_TAGS:
            raise UsageError(f"it would have {len(tags)} tags, more than {MOST_TAGS}")
        return Tags(tuple(tags.values()), self.note if note is None else note)

    def joined(self, other: Tags) -> Tags:
        """What is said of the same weights under two names, once both are known to be the same: all of it."""
        tags: dict[str, str] = {}
        for tag in (*self.tags, *other.tags):
            tags.setdefault(tag.casefold(), tag)
        notes = dict.fromkeys(note for note in (self.note, other.note) if note)
        return Tags(tuple(tags.values()), "\n".join(notes))


def check(add: list[str], remove: list[str], note: str | None) -> None:
    """Raises UsageError for what cannot be a tag or a note."""
    for tag in (*add, *remove):
        wrong = (
            "it is empty" if not tag.strip()
            else "leave out the spaces around it" if tag != tag.strip()
            else f"it has over {LONGEST_TAG} characters" if len(tag) > LONGEST_TAG
            else "it has a line break or a control character" if not _is_plain(tag)
            else ""
        )  # fmt: skip
        if wrong:
            raise UsageError(f"the tag {tag[:40]!a}: {wrong}")
    if note is not None and len(note) > LONGEST_NOTE:
        raise UsageError(f"the note has over {LONGEST_NOTE:,} characters")
    if note is not None and not _is_plain(note.replace("\n", "")):
        raise UsageError("the note has a control character; lines may be broken, all else is plain text")


def _is_plain(text: str) -> bool:
    return text.translate(_JOINERS).isprintable()


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Tags)


def encode(tags: Tags) -> bytes:
    return _ENCODER.encode(tags)


def decode(encoded: bytes) -> Tags:
    """Raises msgspec.MsgspecError for what is none."""
    return _DECODER.decode(encoded)
