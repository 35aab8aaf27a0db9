"""What came in place of a model is called what it is, by whichever name it came."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loracore.errors import FileError, MalformedFile, UnknownFormat
from loracore.tensorfile import SUFFIXES, open_container
from loracore.tensorfile.peft import read_config
from loracore.tensorfile.recognise import in_place_of

LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1234567\n"
)
#: What is never a model, and a word of what is said of it.
IN_PLACE = {
    "lfs": (LFS, "Git LFS pointer"),
    "xet": (b"# xet version 0\nfilesize = 3\n", "Xet pointer"),
    "annex": (b"/annex/objects/SHA256E-s3--abc.safetensors\n", "git-annex pointer"),
    "page": (b"<!DOCTYPE html><html><title>Sign in</title>" + b"x" * 5000, "web page"),
    "page after a comment": (b"\xef\xbb\xbf\n<!-- saved -->\n<HTML>", "web page"),
    "civitai": (b'{"error":"Unauthorized","message":"You must be logged in"}', "You must be logged in"),
    "openai": (b'{"error": {"code": 401, "message": "No such token"}}', "No such token"),
    "fastapi": (b'{"detail":"Not Found"}', "Not Found"),
    "s3": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "AccessDenied",
    ),
}


def zipped() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("model.safetensors", b"x" * 1000)
    return memory.getvalue()


def tarred() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return memory.getvalue()


def pickled() -> bytes:
    memory = io.BytesIO()
    torch.save({"w": torch.ones(3)}, memory, _use_new_zipfile_serialization=False)
    return memory.getvalue()


#: What is a model or an archive, but not one of ours.
FORMATS = {
    "gguf": (b"GGUF\3\0\0\0" + bytes(5000), "GGUF"),
    "gzip": (gzip.compress(b"x" * 5000), "gzip"),
    "zip": (zipped(), "zip archive"),
    "tar": (tarred(), "tar"),
    "pickle": (pickled(), ".pt"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
    "zeros": (bytes(100_000), "zeros"),
    "text": (b"Zugriff verweigert: bitte anmelden\n", "Zugriff verweigert"),
    "empty": (b"", "empty"),
}


def refused(folder: Path, content: bytes, suffix: str = ".safetensors") -> FileError:
    path = folder / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError) as error:
        open_container(str(path))
    assert "\n" not in error.value.reason
    assert "; " in error.value.reason, "there is a remedy"
    return error.value


@pytest.mark.parametrize("suffix", [suffix.decode() for suffix in SUFFIXES])
@pytest.mark.parametrize("what", IN_PLACE)
def test_what_came_in_place_of_a_model_is_failed(tmp_path: Path, what: str, suffix: str) -> None:
    """SPEC 11: a login page, a pointer or a server's message is called that, whatever the name promises."""
    content, word = IN_PLACE[what]
    error = refused(tmp_path, content, suffix)
    assert isinstance(error, MalformedFile)
    assert word in error.reason


@pytest.mark.parametrize("what", FORMATS)
def test_another_format_is_called_what_it_is(tmp_path: Path, what: str) -> None:
    content, word = FORMATS[what]
    assert word in refused(tmp_path, content).reason


@pytest.mark.parametrize("what", IN_PLACE)
def test_a_configuration_that_is_something_else(tmp_path: Path, what: str) -> None:
    """PEFT's file is downloaded in the same ways; what is JSON by itself is read as such."""
    content, word = IN_PLACE[what]
    (tmp_path / "adapter_config.json").write_bytes(content)
    if not content.startswith(b"{"):
        with pytest.raises(MalformedFile, match=word):
            read_config(str(tmp_path).encode())


def test_side_files_of_other_systems_are_no_models(tmp_path: Path) -> None:
    """What macOS (`._x`) and what Windows notes of a download are ignored: nobody expects weights in them."""
    for content in (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000), b"[ZoneTransfer]\r\nZoneId=3\r\n"):
        assert isinstance(refused(tmp_path, content), UnknownFormat)


@pytest.mark.parametrize("cut", [9, 100, -1])
def test_a_cut_file_is_no_other_format(tmp_path: Path, cut: int) -> None:
    """An interrupted download stays that, whatever its first bytes happen to be."""
    for length in (0x280, 0x8B1F, 0x5A4D):
        text = b'{"w":{"dtype":"U8","shape":[999],"data_offsets":[0,999]}}'.ljust(length)
        whole = length.to_bytes(8, "little") + text + bytes(999)
        assert "truncated" in refused(tmp_path, whole[:cut]).reason


@given(st.binary(max_size=5000))
def test_anything_costs_a_moment_and_one_line(content: bytes) -> None:
    """A hostile text can make no pattern run long, and put no line break into a message."""
    started = time.process_time()
    for text in (content, b"<!--" * 500 + content, b"<!-- -->" * 400 + content, b'{"error":"' + content + b'"}'):
        said = in_place_of(text[:4096])
        assert said.isprintable()
    assert time.process_time() - started < 5
