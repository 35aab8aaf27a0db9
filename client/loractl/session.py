"""What clients ask a daemon: a row for each method of `Client` and `AsyncClient`. No I/O.

A row names the request, the type of the answer, and what the method returns; `loractl.steps` says how it is gone
through. Those of de-duplication are in `loractl.dedupe_requests`, those of jobs in `loractl.job_requests`, those
of tags in `loractl.tag_requests`. Only `resolve` looks at files, too, in `loractl.adapters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loracore import control
from loracore.errors import RefusedError
from loracore.identity import Edited
from loracore.paths import AnyPath
from loractl.dedupe_requests import DedupeRequests
from loractl.job_requests import JobRequests
from loractl.steps import Listing, Steps, answered, ask, listed
from loractl.tag_requests import TagRequests, names_of

if TYPE_CHECKING:
    from loractl.adapters import Resolved


class Requests(DedupeRequests, JobRequests, TagRequests):
    """The rows."""

    @answered
    def status(self) -> Steps[control.Status]:
        """How the daemon is, now."""
        return ask(control.GetStatus(), control.Status, self._timeout)

    @answered
    def wait(self, timeout: float | None = None) -> Steps[control.Waited]:
        """Return when everything that was on disk before is reflected in the JSON files."""
        return ask(control.Wait(), control.Waited, timeout)

    @listed
    def groups(self) -> Listing[control.Group]:
        """Files by layout."""
        return Listing(control.ListGroups(), control.Groups, lambda page: page.groups, join_groups)

    @listed
    def duplicates(self, level: str | None = None) -> Listing[control.DuplicateSet]:
        """Sets of files that hold the same weights; of one level, if given."""
        return Listing(control.ListDuplicates(level or ""), control.Duplicates, lambda page: page.sets, join_sets)

    @listed
    def failed(self) -> Listing[control.FailedFile]:
        """Files that could not be read."""
        return Listing(control.ListFailed(), control.Failed, lambda page: page.files)

    @listed
    def list(self, expression: str = "", *, sort: str = "path") -> Listing[control.ListedFile]:
        """Files by what they are, such as `family=sdxl rank>=32`; see `loracore.expressions`."""
        request = control.ListFiles(expression, sort, control.MOST_LISTED)
        return Listing(request, control.Files, lambda page: page.files)

    @listed
    def runs(self, expression: str = "") -> Listing[control.FileSet]:
        """The epochs and versions of each training, of the files that an expression asks for."""
        return Listing(control.ListRuns(expression), control.FileSets, lambda page: page.sets)

    @listed
    def names(self, expression: str = "") -> Listing[control.FileSet]:
        """Files of one name that hold different weights, of those that an expression asks for."""
        return Listing(control.ListNames(expression), control.FileSets, lambda page: page.sets)

    @answered
    def searches(self) -> Steps[control.Searches]:
        """Expressions that were saved; `@NAME` stands for one."""
        return ask(control.ListSearches(), control.Searches, self._timeout)

    @answered
    def save_search(self, name: str, expression: str) -> Steps[control.Searches]:
        """Save an expression under a name; an empty one forgets it."""
        return ask(control.SaveSearch(name, expression), control.Searches, self._timeout)

    @listed
    def find(self, hash: str) -> Listing[control.Match]:
        """Files with a hash that begins with these hex digits."""
        return Listing(control.Find(hash), control.Found, lambda page: page.matches)

    @answered
    def show(self, path: AnyPath) -> Steps[control.Shown]:
        """All that is known of one file."""
        *others, last = names_of(path)
        for name in others:
            try:
                return (yield from ask(control.Show(name), control.Shown, self._timeout))
            except RefusedError as error:
                if error.code != "not-found":
                    raise
        return (yield from ask(control.Show(last), control.Shown, self._timeout))

    @answered
    def resolve(self, name: str, base: str | None = None, *, cache: AnyPath | None = None) -> Steps[Resolved]:
        """The PEFT folder of the adapter that is meant by a name; see `loractl.adapters`."""
        from loractl.adapters import resolving  # noqa: PLC0415 - loads the tables of families, for 10 ms

        return resolving(name, base, cache, self._timeout)

    @answered
    def audit(self, timeout: float | None = None) -> Steps[control.Audited]:
        """Compare the disk with the catalogue and the JSON files."""
        return ask(control.Audit(), control.Audited, timeout)

    @answered
    def note_edits(self, files: Sequence[Edited]) -> Steps[control.Noted]:
        """Have the daemon know edited files by what it knows of them as they were, up to `control.MOST_EDITED`."""
        return ask(control.NoteEdits([*files]), control.Noted, self._timeout)

    @answered
    def doctor(self) -> Steps[control.Examined]:
        """What is wrong with the daemon's machine."""
        return ask(control.Doctor(), control.Examined, self._timeout)


def join_groups(one: control.Group, other: control.Group) -> control.Group | None:
    """One group out of two parts; None where they are two groups."""
    if one.signature != other.signature:
        return None
    return control.Group(one.signature, one.paths + other.paths)


def join_sets(one: control.DuplicateSet, other: control.DuplicateSet) -> control.DuplicateSet | None:
    if one.kept != other.kept:
        return None
    wasted = one.wasted_bytes + other.wasted_bytes
    return control.DuplicateSet(one.kept, one.others + other.others, wasted, one.differing + other.differing)
