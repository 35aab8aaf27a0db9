"""An adapter folder that is freed as a whole, and how it is made anew.

Its recipe lists what lies in it. Its weight files are made by layer, and are removed one by one, as any file is
that was put aside. All else is held by the recipe itself, and is removed after them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import msgspec

from loracore.attributes import Attributes, make_file
from loracore.errors import FileError
from loracore.tensorfile import has_reader
from lorad.dedupe.action import recipe
from lorad.dedupe.action.compare import Layers
from lorad.dedupe.action.folders import same_folders
from lorad.dedupe.action.hold import Held, hold, watchful
from lorad.dedupe.action.order import Progress, Raw, Refused, Side
from lorad.dedupe.action.place import Reached, closing_fd, open_file, reach

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Part(msgspec.Struct, frozen=True):
    """What lay in the folder as `path`, `.` for itself. A folder has no `recipe`; `weights`: it is by layer."""

    path: Raw
    attributes: Attributes
    recipe: Raw | None = None
    weights: bool = False


#: Writes a file by its recipe, from one of these files; from the recipe alone where there are none.
Fill = Callable[[int, bytes | None, Sequence[Side]], None]
_PARTS = msgspec.msgpack.Decoder(list[Part])
encode = msgspec.msgpack.Encoder().encode


def parts(body: bytes | None) -> list[Part]:
    """What lay in a folder that was freed. Raises ValueError where its recipe is missing or damaged."""
    try:
        return _PARTS.decode(body or b"")
    except msgspec.DecodeError as error:
        raise ValueError("its recipe in the journal is missing or damaged") from error


def refuse_writers(reached: Reached, folder: int) -> None:
    """Raises Refused where a file in an open folder is open for writing."""
    for top, _, names, fd in os.fwalk(b".", dir_fd=folder):
        for name in names:
            path = os.path.normpath(os.path.join(reached.path, top, name))
            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_size:
                with hold(Reached(reached.root, path, fd, name), None):
                    pass


def prove(
    hidden: Reached, keeper: Side, stack: ExitStack, progress: Progress
) -> tuple[list[tuple[Held, Held]], list[Part]]:
    """The weight files of a hidden folder, each with that of the keeper's folder; and what lies in it.

    Raises Refused, Unfit, EOFError and OSError where it could not be made anew from there.
    """
    folder = os.open(hidden.name, _FOLDER, dir_fd=hidden.folder)
    stack.callback(os.close, folder)
    refuse_writers(hidden, folder)
    kept = stack.enter_context(reach(keeper.root, keeper.path))
    if reason := same_folders(kept.folder, folder, progress=progress):
        raise Refused.about(hidden.path, f"the folder of {os.fsdecode(keeper.path)} is not the same: {reason}")
    found: list[Part] = []
    pairs: list[tuple[Held, Held]] = []
    for top, _, names, fd in os.fwalk(b".", dir_fd=folder):
        found.append(Part(os.path.normpath(top), Attributes.of(fd, os.fstat(fd))))
        around = os.dup(fd)
        stack.callback(os.close, around)
        for name in sorted(names):
            path = os.path.normpath(os.path.join(top, name))
            one = Reached(hidden.root, os.path.join(hidden.path, path), around, name)
            weights = has_reader(name) and os.stat(name, dir_fd=fd).st_size
            part, pair = _by_layer(path, one, keeper, stack, progress) if weights else (None, None)
            found.append(part or _as_it_is(path, one))
            pairs += [pair] if pair else []
            if sum(len(each.recipe or b"") for each in found) > recipe.MOST:
                raise recipe.Unfit(f"{os.fsdecode(path)} and what lies beside it is more than the journal takes")
    if not pairs:
        raise recipe.Unfit("no weight file in it can be read")
    return pairs, found


def _by_layer(
    path: bytes, reached: Reached, keeper: Side, stack: ExitStack, progress: Progress
) -> tuple[Part, tuple[Held, Held]] | tuple[None, None]:
    """A weight file, and that of the keeper's folder; None where it is no plain container."""
    with ExitStack() as mine:
        held = mine.enter_context(hold(reached, None))
        kept = mine.enter_context(reach(keeper.root, _beside(keeper, path)))
        pair = held, mine.enter_context(hold(kept, None))
        layers: list[Layers] = []
        with suppress(FileError):
            layers = [Layers(each) for each in pair]
        if len(layers) == len(pair):
            with suppress(recipe.Unfit):
                body = recipe.make(layers[1], layers[0], watchful(*pair, progress))
                stack.push(mine.pop_all())
                return Part(path, Attributes.of(held.fd, held.before), body, weights=True), pair
    return None, None


def _as_it_is(path: bytes, reached: Reached) -> Part:
    with closing_fd(open_file(reached)) as fd:
        status = os.fstat(fd)
        return Part(path, Attributes.of(fd, status), recipe.of_bytes(fd, status.st_size))


def _beside(keeper: Side, path: bytes) -> bytes:
    return os.path.join(os.path.dirname(keeper.path), path)


def is_removed(body: bytes | None, around: int, name: bytes) -> bool:
    """Whether a hidden folder was begun to be removed; then all of it is, unless weights are left.

    Raises ValueError and OSError.
    """
    found = parts(body)
    left = [part for part in found if _exists(around, _inside(name, part))]
    if len(left) < len(found) and not any(part.weights for part in left):
        clear(body, around, name)
    return len(left) < len(found)


def clear(body: bytes | None, around: int, name: bytes) -> None:
    """Remove what is left in a hidden folder of what can be made anew, and of it itself. Raises ValueError."""
    for part in reversed(parts(body)):
        with suppress(OSError):
            (os.rmdir if part.recipe is None else os.unlink)(_inside(name, part), dir_fd=around)


def _inside(name: bytes, part: Part) -> bytes:
    return os.path.normpath(os.path.join(name, part.path))


def _exists(folder: int, path: bytes) -> bool:
    try:
        os.stat(path, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove(around: int, name: bytes) -> None:
    """Remove a copy of ours, a file or a folder, if it is there. Raises OSError."""
    try:
        os.unlink(name, dir_fd=around)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=around)


def make(reached: Reached, temp: bytes, found: Sequence[Part], sources: Sequence[Side], fill: Fill) -> int:
    """Make the folder anew under a temporary name; a descriptor of it. Raises as `fill`, and OSError."""
    for part in found:
        if part.recipe is None:
            os.mkdir(_inside(temp, part), 0o700, dir_fd=reached.folder)
            continue
        beside = [msgspec.structs.replace(side, path=_beside(side, part.path)) for side in sources]
        with closing_fd(make_file(reached.folder, _inside(temp, part))) as fd:
            fill(fd, part.recipe, beside if part.weights else ())
            part.attributes.give(fd)
            os.fsync(fd)
    # Last, from the deepest on, as what comes to lie in a folder changes its times.
    for part in reversed(found):
        if part.recipe is None:
            with closing_fd(os.open(_inside(temp, part), _FOLDER, dir_fd=reached.folder)) as fd:
                part.attributes.give(fd)
                os.fsync(fd)
    return os.open(temp, _FOLDER, dir_fd=reached.folder)
