"""TOML into frozen structs, with every problem named at once and by the names in the file.

msgspec alone stops at the first problem and speaks of Python's types; somebody who edits a file wants the
whole list, and what would be right. That stands beside a field's type: the description of a `msgspec.Meta` with
bounds, or a `Rule` where a value is also checked or changed by a function: `Annotated[str, Rule(…)]`.
Which keys there are is not known here: that is `loracore.config`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from loracore.errors import ConfigError
from loracore.framing import converted
from loracore.paths import shown

#: No configuration that a person wrote is larger; a model file given by mistake is.
MAX_BYTES = 1 << 20
_SHOWN_CHARS = 60
_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: 'text in quotes, such as "text"',
}
_WRONG = object()

S = TypeVar("S", bound=msgspec.Struct)


class Rule(msgspec.Struct, frozen=True):
    """What a field asks beyond its type.

    `expected` completes the sentence "expected …"; `parse` returns the value to use, or raises ValueError.
    """

    expected: str
    parse: Callable[[Any], Any]


def read(path: str) -> dict[str, Any]:
    """The tables of a TOML file of at most `MAX_BYTES`. Raises ConfigError, with the line where it can."""
    import tomllib  # noqa: PLC0415 (a daemon without a file starts without it)

    content = _content(path)
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, [f"line {line}: not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [_placed(str(error))]) from None
    except RecursionError:
        raise ConfigError(path, ["nested too deeply"]) from None
    except ValueError as error:
        # tomllib lets some of Python's own limits through, such as that on the digits of a number.
        raise ConfigError(path, [shown(str(error))]) from None


def structure(raw: Mapping[str, Any], into: type[S]) -> tuple[S, list[str]]:
    """`raw` as an `into`, and all its problems. What is wrong stands at its default."""
    problems: list[str] = []
    places = dict(_places(into))
    return _table(raw, into, "", places, problems), problems


def full_name(table: str, key: str) -> str:
    """How a key is named to people: `[watch] roots`, or `state_dir` above all tables."""
    return f"[{table}] {key}" if table else key


def keys(into: type[msgspec.Struct], table: str = "") -> Iterator[tuple[str, str]]:
    """(table, key) of every key of a struct and of the structs in it."""
    for field in msgspec.structs.fields(into):
        if _is_struct(field.type):
            yield from keys(field.type, _below(table, field.name))
        else:
            yield table, field.name


def _content(path: str) -> bytes:
    try:
        # Not blocking: a FIFO is refused below, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(path, ["not a regular file"])
            content = b""
            while len(content) <= MAX_BYTES and (piece := os.read(fd, MAX_BYTES + 1 - len(content))):
                content += piece
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigError(path, [error.strerror or str(error)]) from None
    except ValueError:
        raise ConfigError(path, ["not a file's name"]) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(path, [f"larger than {MAX_BYTES >> 20} MiB: this is not lorad's configuration"])
    return content


def _placed(message: str) -> str:
    """Tomllib's message with the place in front: `line 3, column 7: Invalid value`."""
    text, found, place = message.rpartition(" (at ")
    return f"{place.removesuffix(')')}: {shown(text)}" if found else shown(message)


def _table(raw: Mapping[str, Any], into: type[S], table: str, places: Mapping[str, str], problems: list[str]) -> S:
    fields = {field.name: field.type for field in msgspec.structs.fields(into)}
    values = {}
    for key, value in raw.items():
        kind = fields.get(key)
        if kind is None:
            problems.append(_unknown(key, value, table, fields, places))
        elif not _is_struct(kind):
            values[key] = _value(value, kind, full_name(table, key), problems)
        elif isinstance(value, dict):
            values[key] = _table(value, kind, _below(table, key), places, problems)
        else:
            problems.append(
                f"{full_name(table, key)}: expected the table [{_below(table, key)}], not {_said(value)}"
            )
    return into(**{key: value for key, value in values.items() if value is not _WRONG})


def _value(value: Any, kind: Any, name: str, problems: list[str]) -> Any:
    marks: list[Any] = []
    bare = kind
    if get_origin(kind) is Annotated:
        bare, *marks = get_args(kind)
    if get_origin(bare) is tuple:
        if not isinstance(value, list):
            problems.append(f'{name}: expected a list, such as ["one", "two"], not {_said(value)}')
            return _WRONG
        item = get_args(bare)[0]
        items = [_value(each, item, f"{name}, item {place}", problems) for place, each in enumerate(value, 1)]
        return _WRONG if _WRONG in items else tuple(items)
    try:
        result = converted(value, kind)
        for mark in marks:
            result = mark.parse(result) if isinstance(mark, Rule) else result
    except (msgspec.ValidationError, ValueError):
        problems.append(f"{name}: expected {_expected(bare, marks)}, not {_said(value)}")
        return _WRONG
    return result


def _expected(kind: Any, marks: Sequence[Any]) -> str:
    for mark in marks:
        return str(mark.expected if isinstance(mark, Rule) else mark.description)
    return _EXPECTED[kind]


def _unknown(key: str, value: Any, table: str, fields: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """The problem of a key that does not exist here, and what was probably meant."""
    import difflib  # noqa: PLC0415 (only for a mistake)

    is_table = isinstance(value, dict)
    name = f"[{shown(_below(table, key))}]" if is_table else full_name(table, shown(key))
    problem = f"{name}: no such {'table' if is_table else 'key'}"
    if not is_table and key in places:
        home = places[key]
        where = f"in [{home}]" if home else "above the first table"
        return f"{problem}; it belongs {where}"
    near = difflib.get_close_matches(key, [each for each in fields if _is_struct(fields[each]) == is_table], 1)
    if not near:
        return problem
    meant = f"[{_below(table, near[0])}]" if is_table else near[0]
    return f"{problem}; did you mean {meant}?"


def _places(into: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    for table, key in keys(into):
        yield key, table


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _below(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def _said(value: Any) -> str:
    """A value as its file says it, on one line and short."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = shown(value if isinstance(value, str) else str(value))
    if len(text) > _SHOWN_CHARS:
        text = f"{text[:_SHOWN_CHARS]}…"
    return f'"{text}"' if isinstance(value, str) else text
