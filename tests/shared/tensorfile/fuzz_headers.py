"""Coverage-guided fuzzing of the header readers.

`python -m tests.shared.tensorfile.fuzz_headers --seconds 60` needs atheris, which is no dependency of the
project. The check that it makes of each input, `examine`, and the seeds are also those of `test_fuzz`. An
input that fails is written to the current folder by libFuzzer.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from tests.shared.tensorfile.handmade import archive, legacy_file, view

KINDS = ("safetensors", "file", "archive", "legacy")


def seeds() -> list[tuple[int, bytes]]:
    """A small well-formed input of each kind."""
    header = b'{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    return [
        (0, len(header).to_bytes(8, "little") + header + bytes(8)),
        (1, archive(view())),
        (1, legacy_file(view(legacy=True))),
        (2, view()),
        (2, view(shape=(2, 2), strides=(0, 1))),
        (3, view(legacy=True)),
    ]


def wrap(kind: int, data: bytes) -> tuple[bytes, bytes]:
    """The name and content of the file that an input of this kind stands for."""
    match KINDS[kind % len(KINDS)]:
        case "safetensors":
            return b"fuzz.safetensors", data
        case "archive":
            return b"fuzz.pt", archive(data)
        case "legacy":
            return b"fuzz.pt", legacy_file(data)
        case _:
            return b"fuzz.pt", data


def examine(name: bytes, content: bytes) -> bool:
    """Read the file as the daemon does: a container with all its layers (True), or a FileError (False)."""
    from loracore.errors import FileError

    fd = os.memfd_create("fuzz", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        _read_all(fd, name, len(content))
    except FileError as error:
        reason = str(error)
    else:
        return True
    finally:
        os.close(fd)
    assert "\n" not in reason
    return False


def _read_all(fd: int, name: bytes, size: int) -> None:
    from loracore.tensorfile import Arrangement, Layout, Source, read_container, residue
    from loracore.tensorfile.strided import gather
    from loracore.tensorfile.ziprecords import record_start

    source = Source(fd, size)
    container = read_container(source, name)
    layout, arrangement = container.layout, container.arrangement
    assert Layout.decode(layout.encoded).layers == layout.layers
    assert Arrangement.decode(arrangement.encode()).encode() == arrangement.encode()
    assert len(arrangement.offsets) == len(layout.layers) == len({layer.name for layer in layout.layers})
    assert all(isinstance(text.encode(), bytes) for entry in container.metadata.items() for text in entry)
    for index, layer in enumerate(layout.layers):
        start = container.base + arrangement.offsets[index]
        strides = arrangement.strided.get(index)
        length = strides.storage_bytes if strides else layer.nbytes
        if arrangement.records:
            # Only the local header tells the place, and a read past the end is a MalformedFile.
            start += record_start(source, arrangement.records[index])
        else:
            assert 0 <= start <= start + length <= size
        if strides is None:
            assert len(source.read(start, length)) == layer.nbytes
        elif layer.nbytes < 1 << 20:
            assert sum(map(len, gather(source, start, layer, strides, 4096))) == layer.nbytes
    residue(source, container)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is not installed here; `pip install atheris` in an environment of its own")
    import atheris

    with atheris.instrument_imports(include=["loracore"]):
        import loracore.tensorfile  # noqa: F401

    corpus = Path(tempfile.mkdtemp(prefix="fuzz-headers-"))
    for index, (kind, data) in enumerate(seeds()):
        (corpus / str(index)).write_bytes(bytes([kind]) + data)

    def one_input(data: bytes) -> None:
        if data:
            examine(*wrap(data[0], data[1:]))

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-timeout=10", str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
