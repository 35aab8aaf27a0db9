"""The pickle machine: it reads what torch's weights-only reader reads, obeys nothing, and costs little."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals

from loracore.errors import MalformedFile, UnsafePickle
from loracore.tensorfile import open_container, pickles
from loracore.tensorfile.pickle_names import ALLOWED, Mapping, OrderedMapping, Tensor
from tests.shared.tensorfile.handmade import archive, asks, text, view
from tests.shared.tensorfile.reading import every_dtype, expected, read_layers, save


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


EVIL: dict[str, bytes] = {
    "GLOBAL": b"\x80\x02" + asks("os", "system") + text("id") + b"\x85R.",
    "GLOBAL posix": b"\x80\x02" + asks("posix", "system") + text("id") + b"\x85R.",
    "GLOBAL alone": b"\x80\x02" + asks("os", "system") + b".",
    "GLOBAL beside weights": b"\x80\x02}(" + text("a") + asks("os", "system") + text("id") + b"\x85Ru.",
    "STACK_GLOBAL": b"\x80\x02" + text("os") + text("system") + b"\x93" + text("id") + b"\x85R.",
    "INST": b"\x80\x02(" + text("id") + b"ios\nsystem\n.",
    "OBJ": b"\x80\x02(" + asks("os", "system") + text("id") + b"o.",
    "NEWOBJ": b"\x80\x02" + asks("subprocess", "Popen") + text("id") + b"\x85\x81.",
    "NEWOBJ of a function": b"\x80\x02" + asks("torch._utils", "_rebuild_tensor") + b")\x81.",
    "protocol 0": pickle.dumps(Call(os.system, "id"), 0),
    "protocol 2": pickle.dumps(Call(os.system, "id"), 2),
    "protocol 4": pickle.dumps(Call(os.system, "id"), 4),
    "eval": pickle.dumps({"a": Call(eval, "1")}, 2),
    "getattr": b"\x80\x02" + asks("builtins", "getattr") + b".",
    "import": b"\x80\x02" + asks("builtins", "__import__") + text("os") + b"\x85R.",
    "torch.load": b"\x80\x02" + asks("torch", "load") + text("x") + b"\x85R.",
    "from bytes": b"\x80\x02" + asks("torch.storage", "_load_from_bytes") + text("x") + b"\x85R.",
    "dotted name": b"\x80\x02" + asks("torch", "serialization.os.system") + b".",
    "empty names": b"\x80\x02c\n\n.",
    "numpy": b"\x80\x02" + asks("numpy.core.multiarray", "_reconstruct") + b".",
    "extension": b"\x80\x02\x82\x01.",
    "reduce of a text": b"\x80\x02" + text("os.system") + text("id") + b"\x85R.",
}


@pytest.mark.parametrize("case", EVIL)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_weights_is_refused(tmp_path: Path, case: str) -> None:
    """A pickle that asks for more than weights is refused in one line, as torch refuses it."""
    with pytest.raises(UnsafePickle) as caught:
        pickles.load(EVIL[case])
    assert "\n" not in str(caught.value)
    path = tmp_path / "evil.pt"
    path.write_bytes(archive(EVIL[case]))
    with pytest.raises(UnsafePickle):
        open_container(str(path))
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("case", ["GLOBAL", "protocol 0", "protocol 2", "STACK_GLOBAL", "INST"])
def test_a_bare_evil_pickle_is_refused(tmp_path: Path, case: str) -> None:
    """A pickle without torch's frame around it is looked at too, and what it asks for is refused."""
    path = tmp_path / "evil.bin"
    path.write_bytes(EVIL[case])
    with pytest.raises(UnsafePickle):
        open_container(str(path))


def test_the_reason_names_what_was_asked_for() -> None:
    """The reason names the function, and shows no control characters."""
    with pytest.raises(UnsafePickle, match=r"`os\.system`"):
        pickles.load(EVIL["GLOBAL"])
    with pytest.raises(UnsafePickle, match=r"`os\.system`"):
        pickles.load(EVIL["STACK_GLOBAL"])
    with pytest.raises(UnsafePickle) as caught:
        pickles.load(b"\x80\x02" + asks("os\x1b[2J\r", "x" * 10_000))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_the_allowed_names_are_torch_s() -> None:
    """The list of names is torch's own, and old Python's names for the same."""
    ours = {name.replace(b"\n", b".").decode() for name in ALLOWED}
    assert {name for name in ours if not name.startswith("__builtin__.")} == set(_get_allowed_globals())


DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "no stop": b"\x80\x02}",
    "stop alone": b".",
    "no such instruction": b"\x80\x02\xfe.",
    "empty stack": b"\x80\x02R.",
    "tuple without a mark": b"\x80\x02t.",
    "items without a mark": b"\x80\x02}u.",
    "odd items": b"\x80\x02}(K\x01u.",
    "items of a list": b"\x80\x02]K\x01K\x02s.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "append to a tuple": b"\x80\x02)K\x01a.",
    "never stored": b"\x80\x02h\x05.",
    "list as a key": b"\x80\x02}]K\x01s.",
    "text cut off": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "text not UTF-8": b"\x80\x02U\x02\xff\xfe.",
    "number cut off": b"\x80\x02J\x01",
    "call of a dtype": b"\x80\x02" + asks("torch", "float32") + b")R.",
    "call of a storage": b"\x80\x02" + asks("torch", "FloatStorage") + b")R.",
    "arguments no tuple": b"\x80\x02" + asks("collections", "OrderedDict") + b"NR.",
    "dict of no pairs": b"\x80\x02" + asks("collections", "OrderedDict") + b"](K\x01K\x02e\x85R.",
    "build of a list": b"\x80\x02]}b.",
    "missing persistent id": b"\x80\x02Q.",
    "persistent id is text": b"\x80\x02" + text("storage") + b"Q.",
    "persistent id is empty": b"\x80\x02)Q.",
    "storage without a size": b"\x80\x02(" + text("storage") + asks("torch", "FloatStorage") + text("0") + b"tQ.",
    "parameter of a text": b"\x80\x02" + asks("torch._utils", "_rebuild_parameter") + text("a") + b"\x89}\x87R.",
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_pickle_is_refused(tmp_path: Path, case: str) -> None:
    """A pickle that contradicts itself is malformed, and torch does not read it either."""
    with pytest.raises(MalformedFile):
        pickles.load(DAMAGED[case])
    path = tmp_path / "damaged.pt"
    path.write_bytes(archive(DAMAGED[case]))
    with pytest.raises(Exception):  # noqa: B017, PT011 - torch lets any error escape
        torch.load(path, weights_only=True)


VIEWS: dict[str, bytes] = {
    "past the end": view(shape=(3,)),
    "past the end by its offset": view(offset=1),
    "past the end by its strides": view(strides=(2,)),
    "negative offset": view(offset=-1),
    "negative size": view(shape=(-1,)),
    "negative stride": view(offset=1, strides=(-1,)),
    "huge offset": view(offset=1 << 62),
    "past 64 bits": view(offset=1 << 64),
    "huge size": view(shape=(1 << 62, 1 << 62), strides=(0, 0)),
    "more strides": view(strides=(1, 1)),
    "fewer strides": view(shape=(1, 2)),
    "huge storage": view(numel=1 << 62),
    "storage too large": view(numel=3),
    "storage too small": view(numel=1, shape=(1,)),
    "negative storage": view(numel=-2),
    "other type": view(kind="DoubleStorage"),
    "no such storage": view(key="1"),
    "a path as a key": view(key="../data/0"),
    "many dimensions": view(shape=(1,) * 65, strides=(1,) * 65),
}


@pytest.mark.parametrize("case", VIEWS)
def test_a_view_outside_its_storage_is_refused(tmp_path: Path, case: str) -> None:
    """Offsets, sizes and strides that are negative, huge or lead outside the storage are malformed."""
    path = tmp_path / "view.pt"
    path.write_bytes(archive(view()))
    assert read_layers(str(path)) == {"a": ("F32", (2,), bytes(8))}
    path.write_bytes(archive(VIEWS[case]))
    with pytest.raises(MalformedFile):
        open_container(str(path))


def test_values_become_inert() -> None:
    """Dicts keep their order and their keys unhashed, and a tensor is no more than a description."""
    value = pickles.load(pickle.dumps({"a": [1, -70_000, 1 << 40, 2.5, True, None, "é", ()]}, 2)).value
    assert isinstance(value, Mapping)
    assert list(value) == ["a", [1, -70_000, 1 << 40, 2.5, True, None, "é", ()]]
    ordered = pickles.load(pickle.dumps(OrderedDict(a=1, b=2), 2)).value
    assert isinstance(ordered, OrderedMapping)
    assert list(ordered) == ["a", 1, "b", 2]
    loaded = pickles.load(view())
    assert isinstance(loaded.value, Mapping)
    assert isinstance(loaded.value[1], Tensor)
    assert list(loaded.storages) == ["0"]


def test_everything_accepted_is_accepted_by_torch(tmp_path: Path) -> None:
    """What the machine accepts, torch's weights-only reader accepts too, with the same layers."""
    one = torch.ones(2)
    attributed = torch.ones(3)
    attributed.note = "kept"  # type: ignore[attr-defined]
    noted = torch.nn.Parameter(torch.ones(3))
    noted.note = "kept"  # type: ignore[attr-defined]
    for index, tensors in enumerate((every_dtype(), {"a": attributed, "b": noted, "c": torch.nn.Parameter(one)})):
        extras = {"set": {1, 2}, "counter": Counter("aab"), "size": one.shape, "device": one.device}
        more = {
            "dtype": torch.float16,
            "bytes": b"\xff",
            "array": bytearray(b"ab"),
            "number": 2j,
            "deep": [[(1,)]],
        }
        path = save(str(tmp_path / f"{index}.pt"), {**tensors, **extras, **more})
        try:
            read = read_layers(path)
        except UnsafePickle as error:
            raise AssertionError(str(error)) from error
        loaded = torch.load(path, weights_only=True)
        assert read == expected({name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)})


def test_bombs_cost_bounded_time_and_memory() -> None:
    """Pickles made to cost are all read or refused in one process of 1 GiB, each within seconds."""
    subprocess.run([sys.executable, "-m", "tests.shared.tensorfile.hostile"], check=True, timeout=100)
