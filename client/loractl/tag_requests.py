"""What clients ask about tags and notes, see `loractl.session`. No I/O but for where symbolic links lead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from loracore import control
from loracore.control import MAX_REQUEST, MOST_TAGGED
from loracore.paths import AnyPath
from loracore.tags import check
from loractl.frames import encode
from loractl.steps import Steps, answered, ask

#: Bytes of a request beside its paths that may be more than in an empty one, and of a path beside its characters.
_FRAME, _HEAD = 64, 5


class TagRequests:
    """The rows."""

    _timeout: float | None

    @answered
    def tag(
        self,
        paths: Iterable[AnyPath],
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        note: str | None = None,
    ) -> Steps[Sequence[control.TaggedFile]]:
        """Give files or adapter folders tags of your own, take some away, or write a note; what each has then."""
        return _tagging(paths, control.TagFiles([], list(add), list(remove), note), self._timeout)

    @answered
    def tags(self) -> Steps[control.AllTags]:
        """The tags that users have given."""
        return ask(control.ListTags(), control.AllTags, self._timeout)


def names_of(path: AnyPath) -> list[bytes]:
    """What the daemon may know a file as: its absolute path, and that without symbolic links in its folder."""
    absolute = os.path.abspath(os.fsencode(path))
    folder, name = os.path.split(absolute)
    return list(dict.fromkeys([absolute, os.path.join(os.path.realpath(folder), name)]))


def _tagging(
    paths: Iterable[AnyPath], wanted: control.TagFiles, timeout: float | None
) -> Steps[Sequence[control.TaggedFile]]:
    """Raises UsageError for what cannot be a tag."""
    check(wanted.add, wanted.remove, wanted.note)
    told: list[control.TaggedFile] = []
    files = {names[0]: names for names in map(names_of, paths)}.values()
    for batch in _batches(files, MAX_REQUEST - len(encode(2**62, wanted)) - _FRAME):
        found = yield from _ask(wanted, [names[0] for names in batch], timeout)
        # What is not known by its path may be by that without links.
        pairs = zip(batch, found, strict=True)
        others = {names[0]: names[1] for names, file in pairs if file.refused and names[1:]}
        again = (yield from _ask(wanted, others.values(), timeout)) if others else []
        known = dict(zip(others, again, strict=True))
        told += [known.get(file.path, file) for file in found]
    return told


def _ask(
    wanted: control.TagFiles, paths: Iterable[bytes], timeout: float | None
) -> Steps[list[control.TaggedFile]]:
    request = control.TagFiles(list(paths), wanted.add, wanted.remove, wanted.note)
    return (yield from ask(request, control.TaggedFiles, timeout)).files


def _batches(files: Iterable[list[bytes]], room: int) -> Iterator[list[list[bytes]]]:
    """The names of files, of as many as one request has room for."""
    batch: list[list[bytes]] = []
    left = room
    for names in files:
        length = max(map(len, names)) + _HEAD
        if batch and (length > left or len(batch) == MOST_TAGGED):
            yield batch
            batch, left = [], room
        batch.append(names)
        left -= length
    if batch:
        yield batch
