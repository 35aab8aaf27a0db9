"""What a user says of a model: tags and a note of their own (SPEC section 4), of its weights and not of a name."""

from __future__ import annotations

import msgspec

from loracore.errors import UsageError

#: Characters of a tag and of a note, and tags of one file.
LONGEST_TAG, LONGEST_NOTE, MOST_TAGS = 100, 4000, 100


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
        if len(tags) > MOST_TAGS:
            raise UsageError(f"it would have {len(tags)} tags, more than {MOST_TAGS}")
        return Tags(tuple(tags.values()), self.note if note is None else note)

    def joined(self, other: Tags) -> Tags:
        """What is said of the same weights under two names, once both are known to be the same."""
        tags = {tag.casefold(): tag for tag in (*other.tags, *self.tags)}
        notes = dict.fromkeys(note for note in (self.note, other.note) if note)
        return Tags(tuple(tags.values())[:MOST_TAGS], "\n".join(notes)[:LONGEST_NOTE])


def check(add: list[str], remove: list[str], note: str | None) -> None:
    """Raises UsageError for what cannot be a tag or a note."""
    for tag in (*add, *remove):
        if not tag.strip() or tag != tag.strip() or len(tag) > LONGEST_TAG or not tag.isprintable():
            raise UsageError(
                f"the tag {tag[:40]!a}: take up to {LONGEST_TAG} characters, without spaces around them"
            )
    if note is not None and (len(note) > LONGEST_NOTE or not note.replace("\n", "").isprintable()):
        raise UsageError(f"the note: take up to {LONGEST_NOTE:,} characters of plain text")


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Tags)


def encode(tags: Tags) -> bytes:
    return _ENCODER.encode(tags)


def decode(encoded: bytes) -> Tags:
    """Raises msgspec.MsgspecError for what is none."""
    return _DECODER.decode(encoded)
