"""Layouts: what makes two of them one."""

from __future__ import annotations

from blake3 import blake3

from loracore.tensorfile import Arrangement, Layer, Layout, Strides

A = Layer("a", "F32", (2, 3))
B = Layer("b", "F16", (4,))


def test_order_does_not_matter() -> None:
    """A layout is a sorted list: the order in a file does not change the signature."""
    assert Layout([A, B]).signature == Layout([B, A]).signature


def test_names_and_dtypes_matter() -> None:
    """Equal shapes under another name or dtype are another layout."""
    signatures = {
        Layout(layers).signature
        for layers in (
            [A],
            [Layer("c", "F32", (2, 3))],
            [Layer("a", "I32", (2, 3))],
            [Layer("a", "F32", (3, 2))],
            [A, B],
        )
    }
    assert len(signatures) == 5


def test_encoding_is_canonical() -> None:
    """The signature is the BLAKE3-256 of the encoding, which gives the layout back."""
    layout = Layout([B, A])
    assert layout.signature == blake3(layout.encoded).digest()
    assert Layout.decode(layout.encoded).layers == layout.layers == (A, B)


def test_sizes_count_packed_bytes() -> None:
    """Sizes are packed bytes in layout order; half-byte elements take half a byte."""
    layout = Layout([Layer("z", "F4", (3, 4)), A, Layer("s", "C128", ())])
    assert layout.sizes == (24, 16, 6)
    assert layout.nbytes == 46


def test_arrangements_survive_their_encoding() -> None:
    """An arrangement comes back from the catalogue as it went in, strides too."""
    arrangement = Arrangement([0, 8], [100, 200], {1: Strides((1, 4), 32)})
    assert Arrangement.decode(arrangement.encode()) == arrangement
