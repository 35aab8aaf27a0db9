"""A pickle machine that obeys weights only: no import, no call, no instance, bounded time and memory.

It reads the instructions that torch's own weights-only unpickler reads (torch 2.13,
`torch/_weights_only_unpickler.py`) and builds the inert values of `pickle_names`. Every instruction costs
time in proportion to the bytes or the stack items that it consumes, nothing is hashed but short slices of
the input, and no value is larger than what made it; so a pickle costs at most `MAX_INSTRUCTIONS` steps and
some hundred bytes of memory for each. Values may share parts and contain themselves, as pickles may:
whoever walks them must count.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from struct import unpack_from

import msgspec

from loracore.errors import MalformedFile, UnsafePickle
from loracore.tensorfile.pickle_names import (
    ALLOWED,
    DTYPES,
    OPAQUE,
    Foreign,
    Global,
    Mapping,
    Opaque,
    OrderedMapping,
    Storage,
    Tensor,
)

#: About 36 instructions write one tensor: room for 69,000 tensors, and a bound of a second or two.
MAX_INSTRUCTIONS = 1_000_000
#: Longest pickle that is looked at, in bytes.
MAX_PICKLE = 32 << 20

_REMEDY = "load it where you trust it and save its tensors as safetensors"


class Incomplete(MalformedFile):
    """The input ends before the pickle does."""


class Loaded(msgspec.Struct, frozen=True):
    """A pickle's value, the storages it names by key, and the position after its last instruction."""

    value: object
    storages: dict[str, Storage]
    end: int


def load(data: bytes, start: int = 0) -> Loaded:
    """Read the pickle that begins at `start`.

    Raises:
        Incomplete: `data` ends before the pickle does.
        MalformedFile: it is not a pickle, contradicts itself, or is larger than any checkpoint's.
        UnsafePickle: it asks for something that is not weights; nothing of it was obeyed.
    """
    return _Machine(data, start).run()


class _Machine:
    __slots__ = ("copied", "data", "marks", "memo", "position", "stack", "storages")

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.position = start
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        # The keys are the index's four bytes: integers from the input would let it choose colliding hashes.
        self.memo: dict[bytes, object] = {}
        self.storages: dict[str, Storage] = {}
        self.copied = 0

    def run(self) -> Loaded:
        data, table = self.data, _TABLE
        try:
            for _ in range(MAX_INSTRUCTIONS):
                instruction = data[self.position]
                self.position += 1
                if instruction == 0x2E:  # STOP
                    return Loaded(self.stack.pop(), self.storages, self.position)
                table[instruction](self)
        except IndexError as error:
            if self.position >= len(data):
                raise Incomplete("truncated inside its pickle; download it again") from error
            raise MalformedFile("its pickle takes more from the stack than was put there") from error
        raise MalformedFile(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")

    def take(self, length: int) -> bytes:
        """The next `length` bytes of the input."""
        start = self.position
        self.position = end = start + length
        if end > len(self.data):
            raise Incomplete("truncated inside its pickle; download it again")
        return self.data[start:end]

    def pop_mark(self) -> list[object]:
        """Everything on the stack above the last mark."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def line(self) -> bytes:
        """The input up to the next newline."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.position = len(self.data)
            raise Incomplete("truncated inside its pickle; download it again")
        return self.take(end + 1 - self.position)[:-1]

    def copy(self, items: int) -> None:
        """Count what a call copied, so that a small pickle cannot copy one large list for ever."""
        self.copied += items
        if self.copied > MAX_INSTRUCTIONS:
            raise MalformedFile("its pickle copies more than any checkpoint does")


def _push(value: object) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        machine.stack.append(value)

    return step


def _proto(machine: _Machine) -> None:
    machine.take(1)


def _mark(machine: _Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _empty_list(machine: _Machine) -> None:
    machine.stack.append([])


def _empty_dict(machine: _Machine) -> None:
    machine.stack.append(Mapping())


def _tuple(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(tuple(items))


def _tuple1(machine: _Machine) -> None:
    machine.stack[-1] = (machine.stack[-1],)


def _tuple2(machine: _Machine) -> None:
    last = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], last)


def _tuple3(machine: _Machine) -> None:
    last = machine.stack.pop()
    middle = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], middle, last)


def _binint(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _binint1(machine: _Machine) -> None:
    machine.stack.append(machine.data[machine.position])
    machine.position += 1


def _binint2(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(2), "little"))


def _long1(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(machine.take(1)[0]), "little", signed=True))


def _binfloat(machine: _Machine) -> None:
    machine.stack.append(unpack_from(">d", machine.take(8))[0])


def _binunicode(machine: _Machine) -> None:
    length = int.from_bytes(machine.take(4), "little")
    _push_text(machine, machine.take(length))


def _short_binstring(machine: _Machine) -> None:
    _push_text(machine, machine.take(machine.take(1)[0]))


def _push_text(machine: _Machine, encoded: bytes) -> None:
    try:
        machine.stack.append(str(encoded, "utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        raise MalformedFile("its pickle holds text that is not UTF-8") from error


def _binput(machine: _Machine) -> None:
    machine.memo[_INDEX[machine.data[machine.position]]] = machine.stack[-1]
    machine.position += 1


def _long_binput(machine: _Machine) -> None:
    machine.memo[machine.take(4)] = machine.stack[-1]


def _binget(machine: _Machine) -> None:
    _recall(machine, _INDEX[machine.take(1)[0]])


def _long_binget(machine: _Machine) -> None:
    _recall(machine, machine.take(4))


def _recall(machine: _Machine, index: bytes) -> None:
    try:
        machine.stack.append(machine.memo[index])
    except KeyError:
        raise MalformedFile("its pickle recalls what it never stored") from None


def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    _target_list(machine).append(item)


def _appends(machine: _Machine) -> None:
    items = machine.pop_mark()
    _target_list(machine).extend(items)


def _target_list(machine: _Machine) -> list[object]:
    target = machine.stack[-1]
    if type(target) is not list:
        raise MalformedFile("its pickle appends to something that is not a list")
    return target


def _setitem(machine: _Machine) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    _set(machine, [key, value])


def _setitems(machine: _Machine) -> None:
    _set(machine, machine.pop_mark())


def _set(machine: _Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, Mapping):
        raise MalformedFile("its pickle sets items of something that is not a dict")
    if len(items) % 2:
        raise MalformedFile("its pickle sets a key without a value")
    for key in items[::2]:
        if isinstance(key, list):
            raise MalformedFile("its pickle uses a list or a dict as a key")
    target.extend(items)


def _global(machine: _Machine) -> None:
    name = machine.line() + b"\n" + machine.line()
    allowed = ALLOWED.get(name)
    if allowed is None:
        raise _unsafe(name.replace(b"\n", b"."))
    machine.stack.append(allowed)


def _unsafe(name: bytes | str) -> UnsafePickle:
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:80])
    return UnsafePickle(f"its pickle asks for `{shown}`, which is not weights; {_REMEDY}")


def _inst(machine: _Machine) -> None:
    raise _unsafe(machine.line() + b"." + machine.line())


def _stack_global(machine: _Machine) -> None:
    name = machine.stack.pop()
    module = machine.stack.pop()
    raise _unsafe(f"{module}.{name}" if isinstance(name, str) and isinstance(module, str) else "STACK_GLOBAL")


def _reduce(machine: _Machine) -> None:
    args = machine.stack.pop()
    function = machine.stack[-1]
    if not isinstance(function, Global):
        raise UnsafePickle(f"its pickle calls something that is not weights; {_REMEDY}")
    if function.call is None or type(args) is not tuple:
        raise MalformedFile(f"its pickle calls `{function.name}` in a way that torch never writes")
    made = function.call(args)
    if isinstance(made, list | tuple):
        machine.copy(len(made))
    machine.stack[-1] = made


def _newobj(machine: _Machine) -> None:
    function = machine.stack[-2]
    if isinstance(function, Global) and not function.is_class:
        raise UnsafePickle(f"its pickle makes an instance of `{function.name}`, which is no class; {_REMEDY}")
    _reduce(machine)


def _build(machine: _Machine) -> None:
    """Attributes of an OrderedDict (a state dict's `_metadata`) and the like hold no layer, so they go."""
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, OrderedMapping) and isinstance(state, Mapping):
        return
    if isinstance(target, Tensor | Foreign):
        machine.stack[-1] = Foreign(
            "is rebuilt as torch's first versions did; load it with torch and save it again"
        )
    elif not isinstance(target, Opaque):
        raise MalformedFile("its pickle sets attributes of something that has none")


def _binpersid(machine: _Machine) -> None:
    """`("storage", type, key, location, numel)`; the legacy form adds None or `(key, offset, size)`."""
    identity = machine.stack.pop()
    if type(identity) is not tuple or len(identity) < 2:
        raise MalformedFile("its pickle names a storage in a way that torch never writes")
    if identity[0] != "storage":
        raise UnsafePickle(f"its pickle asks for a stored object that is no storage; {_REMEDY}")
    if len(identity) not in (5, 6):
        raise MalformedFile("its pickle names a storage in a way that torch never writes")
    kind, key, _location, numel = identity[1:5]
    if not isinstance(kind, Global) or kind.storage is None or kind.storage not in DTYPES:
        raise MalformedFile("its pickle names a storage of no known type")
    if type(key) is int:
        key = str(key)
    if type(key) is not str or len(key) > 64 or type(numel) is not int or not 0 <= numel < 1 << 63:
        raise MalformedFile("its pickle names a storage of an impossible size or key")
    whole = Storage(key, kind.storage, numel, 0, numel)
    if machine.storages.setdefault(key, whole) != whole:
        raise MalformedFile("its pickle names one storage with two sizes or types")
    view = identity[5] if len(identity) == 6 else None
    machine.stack.append(whole if view is None else _view(whole, view))


def _view(whole: Storage, view: object) -> Storage:
    if type(view) is not tuple or len(view) != 3 or any(type(number) is not int for number in view[1:]):
        raise MalformedFile("its pickle views a storage in a way that torch never writes")
    _, start, length = view
    if start < 0 or length < 0 or start + length > whole.numel:
        raise MalformedFile("its pickle views a storage past its end")
    return Storage(whole.key, whole.dtype, whole.numel, start, length)


def _refuse(code: int) -> Callable[[_Machine], None]:
    """An instruction outside the list: known to pickle, and then refused by torch too; or no instruction."""
    known = next((entry.name for entry in pickletools.opcodes if entry.code == chr(code)), None)

    def step(_machine: _Machine) -> None:
        if known is None:
            raise MalformedFile("its pickle is damaged; download it again")
        raise UnsafePickle(f"its pickle uses {known}, which no weights need; {_REMEDY}")

    return step


_INDEX = [index.to_bytes(4, "little") for index in range(256)]

_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _proto, b"(": _mark, b"]": _empty_list, b"}": _empty_dict,
    b"t": _tuple, b"\x85": _tuple1, b"\x86": _tuple2, b"\x87": _tuple3,
    b"J": _binint, b"K": _binint1, b"M": _binint2, b"\x8a": _long1, b"G": _binfloat,
    b"X": _binunicode, b"U": _short_binstring,
    b"q": _binput, b"r": _long_binput, b"h": _binget, b"j": _long_binget,
    b"a": _append, b"e": _appends, b"s": _setitem, b"u": _setitems,
    b"c": _global, b"R": _reduce, b"\x81": _newobj, b"b": _build, b"Q": _binpersid,
    b"i": _inst, b"\x93": _stack_global,
    b"N": _push(None), b"\x88": _push(True), b"\x89": _push(False),
    b")": _push(()), b"\x8f": _push(OPAQUE),
}  # fmt: skip

_TABLE = [_STEPS.get(bytes([code])) or _refuse(code) for code in range(256)]
