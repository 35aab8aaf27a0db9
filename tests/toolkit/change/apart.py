"""An array module whose arrays do not mix with numpy's, as CuPy's do not."""

from __future__ import annotations

from typing import Any

import numpy as np


class Apart(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of the other memory. `get` brings it here; nothing else does."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def get(self) -> Any:
        return self._values

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("implicit conversion to a numpy array")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(each, np.ndarray) and each.ndim for each in inputs):
            raise TypeError(f"{ufunc.__name__} of arrays in different memories")
        return _wrapped(getattr(ufunc, method)(*map(_inner, inputs), **options))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._values, name)
        if not callable(found):
            return _wrapped(found)
        return lambda *given, **options: _wrapped(found(*map(_inner, given), **options))

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        return _wrapped(self._values[tuple(map(_inner, keys))])

    def __len__(self) -> int:
        return len(self._values)

    def __float__(self) -> float:
        return float(self._values)


class _Functions:
    """numpy's functions over `Apart`."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found):
            return _Functions(found)

        def function(*given: Any, **options: Any) -> Any:
            if name != "asarray" and any(isinstance(each, np.ndarray) and each.ndim for each in given):
                raise TypeError(f"{name} of an array on the host")
            result = found(*map(_inner, given), **options)
            return tuple(map(_wrapped, result)) if isinstance(result, tuple) else _wrapped(result)

        return function


def _inner(value: Any) -> Any:
    return value._values if isinstance(value, Apart) else value


def _wrapped(value: Any) -> Any:
    return Apart(value) if isinstance(value, np.ndarray | np.generic) else value


MODULE: Any = _Functions(np)
