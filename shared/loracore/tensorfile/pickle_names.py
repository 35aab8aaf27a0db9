"""What a torch checkpoint's pickle may name, and the inert values that stand for it.

The names are those that torch itself obeys under `weights_only=True` (torch 2.13,
`torch/_weights_only_unpickler.py`, `_get_allowed_globals`). Nothing here imports torch or executes what a
pickle asks for: a storage becomes a description of where its bytes lie, a tensor a view of one, and
whatever holds no weights becomes `OPAQUE`. How a pickle's instructions are read is in `pickles`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from loracore.errors import MalformedFile
from loracore.tensorfile.container import MAX_DIMENSIONS

#: torch's element types: bytes of one element, and safetensors' name where that format has one.
DTYPES: dict[str, tuple[int, str | None]] = {
    "float64": (8, "F64"), "float32": (4, "F32"), "float16": (2, "F16"), "bfloat16": (2, "BF16"),
    "int64": (8, "I64"), "int32": (4, "I32"), "int16": (2, "I16"), "int8": (1, "I8"),
    "uint64": (8, "U64"), "uint32": (4, "U32"), "uint16": (2, "U16"), "uint8": (1, "U8"),
    "bool": (1, "BOOL"), "complex64": (8, "C64"), "complex128": (16, "C128"), "complex32": (4, None),
    "float8_e4m3fn": (1, "F8_E4M3"), "float8_e4m3fnuz": (1, "F8_E4M3FNUZ"),
    "float8_e5m2": (1, "F8_E5M2"), "float8_e5m2fnuz": (1, "F8_E5M2FNUZ"),
    "float8_e8m0fnu": (1, "F8_E8M0"), "float4_e2m1fn_x2": (1, "F4"),
    "bits8": (1, None), "bits16": (2, None), "bits1x8": (1, None), "bits2x4": (1, None),
    "bits4x2": (1, None), "qint8": (1, None), "qint32": (4, None), "quint8": (1, None),
    "quint4x2": (1, None), "quint2x4": (1, None),
}  # fmt: skip

_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64",
    "QInt8": "qint8", "QInt32": "qint32", "QUInt8": "quint8", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4",
}  # fmt: skip
_QUANTISED = frozenset({"qint8", "qint32", "quint8", "quint4x2", "quint2x4"})

#: Wrappers of a rebuild function around another; torch itself never nests them.
_MAX_WRAPPERS = 4


class Mapping(list[object]):
    """A dict as its keys and values by turns. Nothing is hashed: a hostile key would cost unbounded time."""

    __slots__ = ()


class OrderedMapping(Mapping):
    """An OrderedDict, which alone among dicts may carry attributes (a state dict's `_metadata`)."""

    __slots__ = ()


class Opaque:
    """Something that torch allows and that holds no layer."""

    __slots__ = ()


OPAQUE = Opaque()


class Storage(msgspec.Struct, frozen=True):
    """Elements `start` to `start + length` of the storage `key`, which has `numel` of torch's `dtype`."""

    key: str
    dtype: str
    numel: int
    start: int
    length: int


class Tensor(msgspec.Struct, frozen=True):
    """A view of a storage: shape, strides and offset in elements of its own torch `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Foreign(msgspec.Struct, frozen=True):
    """A tensor that cannot be laid out as plain bytes, and why."""

    reason: str


class Global(msgspec.Struct, frozen=True):
    """A name that a pickle may ask for. `call` is what calling it gives here; None where nothing can."""

    name: str
    call: Callable[[tuple[object, ...]], object] | None = None
    is_class: bool = False
    dtype: str | None = None
    storage: str | None = None


def _opaque(_args: tuple[object, ...]) -> object:
    return OPAQUE


def _foreign(reason: str) -> Callable[[tuple[object, ...]], object]:
    value = Foreign(reason)
    return lambda _args: value


def _ordered(args: tuple[object, ...]) -> object:
    made = OrderedMapping()
    if not args:
        return made
    pairs = args[0]
    if isinstance(pairs, Mapping):
        made.extend(pairs)
    elif type(pairs) is list:
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise MalformedFile("its pickle makes a dict of things that are not pairs")
            made.extend(pair)
    else:
        raise MalformedFile("its pickle makes a dict of something else")
    return made


def _size(args: tuple[object, ...]) -> object:
    if len(args) != 1 or type(args[0]) not in (tuple, list):
        raise MalformedFile("its pickle makes a shape of something else")
    return args[0] if type(args[0]) is tuple else tuple(args[0])  # type: ignore[arg-type]


def _numbers(value: object, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > MAX_DIMENSIONS:
        raise MalformedFile(f"a tensor's {what} is not a short tuple")
    for number in value:
        if type(number) is not int or not 0 <= number < 1 << 63:
            raise MalformedFile(f"a tensor's {what} holds an impossible number")
    return value


def _tensor(view: tuple[object, ...], dtype: object, marks: object) -> object:
    """The tensor of torch's `(storage, offset, shape, strides)`, of the storage's element type or its own."""
    storage, offset, shape, strides = view
    if isinstance(storage, Opaque):
        return Foreign("has no bytes in the file")
    if not isinstance(storage, Storage):
        raise MalformedFile("a tensor is made without a storage")
    kind = storage.dtype if dtype is None else dtype.dtype if isinstance(dtype, Global) else None
    if kind is None:
        raise MalformedFile("a tensor has no element type")
    if kind in _QUANTISED:
        return Foreign("is quantised; dequantise it and save it again")
    sizes, steps = _numbers(shape, "shape"), _numbers(strides, "strides")
    if len(sizes) != len(steps):
        raise MalformedFile("a tensor has more strides than dimensions, or fewer")
    (first,) = _numbers((offset,), "offset")
    if marks is not None and not isinstance(marks, Mapping):
        raise MalformedFile("a tensor's marks are not a dict")
    if marks and any(value is not False for value in marks[1::2]):
        return Foreign("is a lazy conjugate or negative; save it again after resolve_conj() and resolve_neg()")
    return Tensor(storage, kind, first, sizes, steps)


def _rebuild(
    fewest: int, most: int, dtype: int | None, marks: int | None
) -> Callable[[tuple[object, ...]], object]:
    """One of torch's `_rebuild_tensor…`; `dtype` and `marks` are the places of those arguments."""

    def call(args: tuple[object, ...]) -> object:
        if not fewest <= len(args) <= most:
            raise MalformedFile("a tensor is made with the wrong number of arguments")
        kind = args[dtype] if dtype else None
        if dtype and kind is None:
            raise MalformedFile("a tensor has no element type")
        return _tensor(args[:4], kind, args[marks] if marks and len(args) > marks else None)

    return call


def _first(args: tuple[object, ...]) -> object:
    """A parameter is the tensor that it wraps."""
    if not args or not isinstance(args[0], Tensor | Foreign):
        raise MalformedFile("a parameter is made of something that is no tensor")
    return args[0]


def _from_cpu(args: tuple[object, ...]) -> object:
    tensor = _first(args)
    dtype = args[1] if len(args) > 1 else None
    if isinstance(tensor, Tensor) and not (isinstance(dtype, Global) and dtype.dtype == tensor.dtype):
        return Foreign("is stored as another element type than its own; load it with torch and save it again")
    return tensor


def _from_type(args: tuple[object, ...]) -> object:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes, or a subclass."""
    for _ in range(_MAX_WRAPPERS):
        if len(args) != 4 or type(args[2]) is not tuple or not isinstance(args[0], Global):
            break
        function, args = args[0], args[2]
        if function.call is not _from_type:
            if function.call is None:
                break
            return function.call(args)
    raise MalformedFile("a tensor of a subclass is made in a way that torch never writes")


def _allowed() -> dict[bytes, Global]:
    """Every allowed name, as it stands in a GLOBAL instruction: module, newline, name."""
    old = _foreign("is made in a way of torch's first versions; load it with torch and save it again")
    calls = [
        Global("collections.OrderedDict", _ordered, is_class=True),
        Global("collections.Counter", _ordered, is_class=True),
        Global("torch.nn.parameter.Parameter", _first, is_class=True),
        Global("torch.serialization._get_layout", _opaque),
        Global("torch.Size", _size, is_class=True),
        Global("torch.Tensor", old, is_class=True),
        Global("torch.device", _opaque, is_class=True),
        Global("_codecs.encode", _opaque),
        *(Global(f"builtins.{name}", _opaque, is_class=True) for name in ("bytearray", "set", "complex")),
        *(Global(f"__builtin__.{name}", _opaque, is_class=True) for name in ("bytearray", "set", "complex")),
        Global("torch._utils._rebuild_tensor", _rebuild(4, 4, None, None)),
        Global("torch._utils._rebuild_tensor_v2", _rebuild(6, 7, None, 6)),
        Global("torch._utils._rebuild_tensor_v3", _rebuild(7, 8, 6, 7)),
        Global("torch._utils._rebuild_parameter", _first),
        Global("torch._utils._rebuild_parameter_with_state", _first),
        Global("torch._utils._rebuild_device_tensor_from_cpu_tensor", _from_cpu),
        Global("torch._utils._rebuild_device_tensor_from_numpy", _foreign("is kept as a numpy array")),
        Global("torch._utils._rebuild_qtensor", _foreign("is quantised; dequantise it and save it again")),
        Global("torch._utils._rebuild_sparse_tensor", _foreign("is sparse; make it dense and save it again")),
        Global(
            "torch._utils._rebuild_nested_tensor",
            _foreign("is a nested tensor; save its parts by themselves"),
        ),
        Global("torch._utils._rebuild_meta_tensor_no_storage", _foreign("is a meta tensor, without data")),
        Global("torch._utils._rebuild_wrapper_subclass", _foreign("is a wrapper around tensors, without data")),
        Global("torch._tensor._rebuild_from_type_v2", _from_type),
        Global("torch.storage.UntypedStorage", _opaque, is_class=True, storage="uint8"),
        Global("torch.storage.TypedStorage", _opaque, is_class=True),
        *(Global(f"torch.{name}", dtype=name) for name in DTYPES),
        *(
            Global(f"torch.{sign}int{bits}", dtype=f"{sign}int{bits}")
            for sign in ("", "u")
            for bits in range(1, 8)
        ),
        *(Global(f"torch.per_tensor_{kind}") for kind in ("affine", "symmetric")),
        *(Global(f"torch.per_channel_{kind}") for kind in ("affine", "symmetric", "affine_float_qparams")),
    ]
    for name, dtype in _STORAGES.items():
        calls.append(Global(f"torch.{name}Storage", storage=dtype))
        if not name.startswith("Q"):
            calls.append(Global(f"torch.cuda.{name}Storage", storage=dtype))
        if not name.startswith(("Q", "Complex")):
            calls += (Global(f"torch.{where}{name}Tensor", old, is_class=True) for where in ("", "cuda."))
            sparse = _foreign("is sparse; make it dense and save it again")
            places = ("sparse.", "cuda.sparse.")
            calls += (
                Global(f"torch.{where}{name}Tensor", sparse, is_class=True) for where in places if name != "Bool"
            )
    return {"\n".join(entry.name.rsplit(".", 1)).encode(): entry for entry in calls}


ALLOWED = _allowed()
