"""The face of the action library: one process at a time applies, undoes and repairs."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

import msgspec

from loracore.errors import FileError, LoraError, StateError, StateLocked
from lorad.blocks.extents import unshared_bytes
from lorad.dedupe import quarantine, recipe, reflink, removal, replace, sidecars
from lorad.dedupe.attributes import Attributes
from lorad.dedupe.compare import Layers, digest, same_bytes, same_layers
from lorad.dedupe.guard import Held, hold, same
from lorad.dedupe.journal import Entry, Journal
from lorad.dedupe.keepable import refuse_volatile
from lorad.dedupe.orders import Order, Progress, Refused, Result, Unsettled, check, silent
from lorad.dedupe.reach import Folder, Reached, reach
from lorad.dedupe.repair import repair
from lorad.dedupe.settle import Pending, settle
from lorad.dedupe.site import Site
from lorad.dedupe.trouble import told
from lorad.dedupe.undo import undo
from lorad.pipeline.protocol import Identity

LOCK = "dedupe.lock"


class Actor:
    """Carries out orders on files, undoes them, and keeps the journal. `repair` first, once, before anything else.

    Whatever kills the process, `repair` brings names and content to all before or all after, and `undo` brings
    back each file with bytes, mode, owner, times and extended attributes. The same holds after a power cut, as
    far as the disk keeps what it says it has written: the journal entry is on the disk before a name changes, and
    the kept file before the other one's last name goes.
    """

    def __init__(self, state_dir: str, *, at: Callable[[str], None] = lambda step: None) -> None:
        """Open the journal in `state_dir` and lock it against a second actor.

        `at` is called after each step with its name (`steps`). Raises StateLocked, and StateError as `Journal`.
        """
        try:
            os.makedirs(state_dir, mode=0o750, exist_ok=True)
            self._lock = os.open(os.path.join(state_dir, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StateError(f"{state_dir}: {reason}; give another --state-dir") from error
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StateLocked(f"{state_dir}: another lorad changes files by it; wait for it") from error
            self._site = Site(state_dir, Journal(state_dir), at)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Actor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._site.journal.close()
        os.close(self._lock)

    def repair(self) -> list[Result]:
        """Bring what was interrupted to an end; see `repair.repair`."""
        return repair(self._site)

    def apply(self, order: Order, progress: Progress = silent) -> Result:
        """Carry out an order. The result's state is `done`, or `nothing` where there was nothing to do.

        Raises Refused when it was not done, for any reason that lies in the files; everything is as before then.
        Where it had begun already, there is an entry `failed` in the history. Raises StateError when the journal
        cannot be written.
        """
        check(order)
        with ExitStack() as stack:
            kept_at = stack.enter_context(reach(order.kept.root, order.kept.path))
            gone_at = stack.enter_context(reach(order.gone.root, order.gone.path))
            self._site.at("reached")
            if order.level == "inode" or _are_one(kept_at, gone_at):
                return _nothing(order, "both are names of one file already")
            self._refuse_places(order)
            kept = stack.enter_context(hold(kept_at, order.kept.identity))
            gone = stack.enter_context(hold(gone_at, order.gone.identity))
            refuse_volatile(order.kept.path, order.gone.path)
            self._site.at("leased")
            try:
                return self._apply(order, kept, gone, _watchful(kept, gone, progress))
            except (Refused, OSError) as error:
                refusal = _refused(gone.path, error)
                refusal.kept_now = _now(kept)
                raise refusal from error
            except sqlite3.Error as error:
                raise self._journal_error(error) from error

    def undo(self, number: int, progress: Progress = silent) -> Result:
        """Undo an action that is done. The result's state is `undone`.

        One that is `emptied` is looked for once more, as its quarantine may have been brought back.

        Raises Refused when it was not undone; everything is as before then, and the action is still `done`. Raises
        LoraError when there is no such action, and StateError when the journal cannot be written.
        """
        entry = self._site.journal.get(number)
        if entry is None:
            raise LoraError(f"there is no action {number}; see the history")
        if entry.state not in ("done", "emptied"):
            raise Refused.about(
                entry.gone.path, f"action {number} is {entry.state}; only what is done can be undone"
            )
        try:
            with reach(entry.gone.root, entry.gone.path) as reached:
                return self._or_back(entry, reached, lambda: undo(self._site, entry, reached, progress)).result()
        except OSError as error:
            raise _refused(entry.gone.path, error) from error
        except sqlite3.Error as error:
            raise self._journal_error(error) from error

    def _refuse_places(self, order: Order) -> None:
        for side in (order.kept, order.gone):
            quarantine.refuse_inside(self._site, side)
        if order.action in ("quarantine", "delete"):
            for entry in self._site.journal.leading_to(order.gone.path):
                raise Refused.about(
                    order.gone.path,
                    f"{os.fsdecode(entry.gone.path)} is a link to it since action {entry.id}; undo that first",
                )
        if order.level != "file" and order.action in ("quarantine", "delete", "symlink"):
            # The undo finds a file of the same bytes that this one goes for, but not one of the same layers.
            for entry in self._site.journal.made_from(order.gone.path):
                raise Refused.about(
                    order.gone.path,
                    f"{os.fsdecode(entry.gone.path)} would be made from it if action {entry.id} were undone; undo "
                    "that first",
                )

    def _apply(self, order: Order, kept: Held, gone: Held, progress: Progress) -> Result:
        if order.action == "reflink":
            return self._reflink(order, kept, gone, progress)
        entry = self._compare(order, kept, gone, progress)
        self._site.at("compared")
        entry = self._site.journal.plan(entry)
        self._site.at("planned")
        entry = self._or_back(entry, gone.reached, lambda: self._act(entry, kept, gone, progress))
        return msgspec.structs.replace(entry.result(), kept_now=Identity.of(os.fstat(kept.fd)))

    def _compare(self, order: Order, kept: Held, gone: Held, progress: Progress) -> Entry:
        """The entry for an order, once the files proved to be the same. Raises Refused where it may not be."""
        attributes = Attributes.of(gone.fd, gone.before)
        if order.action in ("hardlink", "symlink"):
            _refuse_other_access(kept, gone, attributes)
        if order.level == "file":
            whole = same_bytes(kept, gone, progress)
        else:
            one, other = Layers(kept), Layers(gone)
            if order.action == "symlink" and one.container.format != other.container.format:
                raise Refused.about(
                    gone.path, f"a link in its place would lead to a {one.container.format} file; order quarantine"
                )
            same_layers(one, other, progress)
            whole = digest(gone.fd, gone.before.st_size, progress)
        aside = order.sidecars == "move" and order.action in ("quarantine", "delete")
        beside = sidecars.beside(gone.reached) if aside else ()
        return Entry(
            action=order.action,
            level=order.level,
            kept=order.kept,
            gone=order.gone,
            bytes=gone.before.st_size if order.action == "quarantine" else _freed(gone),
            attributes=attributes,
            digest=whole,
            target=replace.link_target(order.kept, order.gone) if order.action == "symlink" else b"",
            place=quarantine.choose(self._site, gone.reached) if beside or order.action == "quarantine" else "",
            sidecars=beside,
            folder=Folder.of(gone.folder),
        )

    def _act(self, entry: Entry, kept: Held, gone: Held, progress: Progress) -> Entry:
        if entry.level == "tensors" and entry.action in ("symlink", "delete"):
            entry = self._keep_recipe(entry, kept, gone, progress)
        if entry.action == "quarantine":
            return removal.put_aside(self._site, entry, kept, gone)
        if entry.action == "delete":
            return removal.delete(self._site, entry, kept, gone)
        return replace.replace(self._site, entry, kept, gone)

    def _keep_recipe(self, entry: Entry, kept: Held, gone: Held, progress: Progress) -> Entry:
        """Write and rehearse the recipe; the entry becomes one for quarantine where the file cannot be rebuilt."""
        path = self._site.recipe(entry)
        try:
            one, other = Layers(kept), Layers(gone)
            written = recipe.write(path, one, other, entry.digest)
            self._site.at("recipe written")
            recipe.rehearse(path, one, other, entry.digest, progress)
            self._site.at("recipe rehearsed")
        except recipe.Unfit as error:
            recipe.drop(path)
            return self._site.journal.update(
                entry,
                action="quarantine",
                target=b"",
                place=entry.place or quarantine.choose(self._site, gone.reached),
                bytes=gone.before.st_size,
                text=f"put into quarantine instead of {entry.action}: {error}",
            )
        entry = self._site.journal.update(entry, recipe=True, bytes=max(0, entry.bytes - written))
        self._site.at("recipe noted")
        return entry

    def _reflink(self, order: Order, kept: Held, gone: Held, progress: Progress) -> Result:
        ranges = reflink.ranges_to_share(kept, gone)
        if not ranges:
            return _nothing(order, "all its blocks are shared already")
        attributes = Attributes.of(gone.fd, gone.before)
        entry = self._site.journal.plan(
            Entry(
                action=order.action,
                level=order.level,
                kept=order.kept,
                gone=order.gone,
                bytes=unshared_bytes(gone.fd),
                attributes=attributes,
                folder=Folder.of(gone.folder),
            )
        )
        self._site.at("planned")
        entry = self._or_back(
            entry, gone.reached, lambda: reflink.share(self._site, entry, kept, gone, ranges, progress)
        )
        return msgspec.structs.replace(entry.result(), kept_now=Identity.of(os.fstat(kept.fd)))

    def _or_back(self, entry: Entry, reached: Reached, act: Callable[[], Entry]) -> Entry:
        """Act; where that fails, take back what was begun and raise the reason."""
        try:
            return act()
        except Exception as error:
            reason = _refused(entry.gone.path, error)
            now = self._site.journal.get(entry.id)
            assert now is not None
            try:
                if now.state in ("planned", "removing", "undoing"):
                    now = settle(self._site, now, reached, reason.reason)
            except (FileError, Pending, OSError, EOFError, sqlite3.Error) as trouble:
                raise Unsettled(
                    f"{reason.reason}; what was begun is brought to an end as soon as can be ({trouble})",
                    reason.path,
                ) from error
            if now.state == ("undone" if entry.state in ("done", "emptied") else "done"):
                # It failed when all was done already, or had to end in quarantine.
                return now
            if isinstance(error, FileError | OSError | EOFError | sqlite3.Error):
                raise reason from error
            raise

    def _journal_error(self, error: sqlite3.Error) -> StateError:
        return StateError(f"{self._site.journal.path}: {error}; make room for it")


def _are_one(kept: Reached, gone: Reached) -> bool:
    one, other = kept.status(), gone.status()
    return one is not None and other is not None and os.path.samestat(one, other)


def _nothing(order: Order, text: str) -> Result:
    return Result(0, order.action, order.kept.path, order.gone.path, 0, "nothing", text, level=order.level)


def _refuse_other_access(kept: Held, gone: Held, attributes: Attributes) -> None:
    """A link has the owner, mode and ACL of what it leads to: who could read it must still, and no one else."""
    if not attributes.same_access(Attributes.of(kept.fd, kept.before)):
        raise Refused.about(
            gone.path,
            f"its owner, mode or ACL differ from those of {os.fsdecode(kept.path)}, and a link can have but one; "
            "make them equal, or order reflink or quarantine",
        )


def _freed(gone: Held) -> int:
    """Space that is free once `gone` has no name: none while it has other names, nor for shared blocks."""
    return unshared_bytes(gone.fd) if gone.before.st_nlink == 1 else 0


def _watchful(kept: Held, gone: Held, progress: Progress) -> Progress:
    """Progress that gives way at once to whoever wants to write."""

    def told(done: int, total: int) -> None:
        kept.look()
        gone.look()
        progress(done, total)

    return told


def _now(kept: Held) -> Identity | None:
    """What the kept file is by our own doing; None where it is as before, or somebody else may have changed it."""
    before, now = Identity.of(kept.before), Identity.of(os.fstat(kept.fd))
    return now if now != before and same(now, before, renamed=True) and not kept.visited else None


def _refused(path: bytes, error: Exception) -> Refused:
    """Any trouble as a refusal that names the file."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, FileError):
        return Refused(error.reason, error.path or os.fsdecode(path))
    if isinstance(error, OSError):
        return Refused.about(path, told(error))
    return Refused.about(path, str(error) or type(error).__name__)
