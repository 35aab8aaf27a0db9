"""What a file is that no reader takes: what came in place of a model, or another format than its name says."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from loracore.errors import FileError, MalformedFile, UnknownFormat
from loracore.tensorfile.container import MAX_HEADER
from loracore.tensorfile.source import Source

#: Bytes at the begin of a file that are looked at; no sign lies further in.
_HEAD = 4096
#: Characters of a message that are quoted.
_QUOTED = 100
_UNPACK = "unpack it"
_RENAME = "give it the suffix of what it is"


class _Format(NamedTuple):
    sign: bytes
    name: str
    remedy: str = _RENAME
    offset: int = 0


_FORMATS = (
    _Format(b"GGUF", "a GGUF model", "rename it to .gguf"),
    _Format(b"ggjt", "a GGML model"),
    _Format(b"lmgg", "a GGML model"),
    _Format(b"tjgg", "a GGML model"),
    _Format(b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    _Format(b"\x93NUMPY", "a NumPy array"),
    _Format(b"TFL3", "a TensorFlow Lite model", offset=4),
    _Format(b"ARROW1", "an Arrow file"),
    _Format(b"PAR1", "a Parquet file"),
    _Format(b"SQLite format 3\0", "an SQLite database"),
    _Format(b"\x80", "a pickle, as torch wrote before its version 1.6", "rename it to .pt"),
    _Format(b"PK\x03\x04", "a zip archive", _UNPACK),
    _Format(b"PK\x05\x06", "a zip archive without files"),
    _Format(b"\x1f\x8b", "packed with gzip", _UNPACK),
    _Format(b"BZh", "packed with bzip2", _UNPACK),
    _Format(b"\xfd7zXZ\0", "packed with xz", _UNPACK),
    _Format(b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK),
    _Format(b"\x04\x22\x4d\x18", "packed with lz4", _UNPACK),
    _Format(b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    _Format(b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    _Format(b"ustar", "a tar archive", _UNPACK, 257),
    _Format(b"%PDF", "a PDF document"),
    _Format(b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
    _Format(b"\xff\xd8\xff", "a picture (JPEG)"),
    _Format(b"GIF8", "a picture (GIF)"),
    _Format(b"WEBP", "a picture (WebP)", offset=8),
    _Format(b"ftyp", "a film (MP4) or a picture (AVIF, HEIC)", offset=4),
    _Format(b"\x7fELF", "a program"),
    _Format(b"MZ", "a Windows program"),
    _Format(b"L\0\0\0\x01\x14\x02\0", "a Windows shortcut", "give the file that it leads to"),
    _Format(b"bplist00", "a property list of macOS"),
)
#: Files that systems put beside others: no model was ever meant.
_SIDE_FILES = (
    _Format(b"\0\x05\x16\x07", "what macOS keeps beside a file (AppleDouble), no model", "remove it, or leave it"),
    _Format(b"[ZoneTransfer]", "what Windows keeps beside a download, no model", "remove it, or leave it"),
    _Format(b"[InternetShortcut]", "a link to a web page, no model", "remove it, or leave it"),
)
#: Texts that stand for a file that is elsewhere.
_POINTERS = (
    _Format(b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "git lfs pull"),
    _Format(b"version https://hawser.github.com/spec/", "a Git LFS pointer, not the file itself", "git lfs pull"),
    _Format(b"# xet version", "a Xet pointer, not the file itself", "git xet pull"),
    _Format(b"/annex/objects/", "a git-annex pointer, not the file itself", "git annex get"),
)
_AGAIN = "download it again"
_SIGNED_IN = "download it again, signed in or from the right address"
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?:<!--.*?-->\s*+)*+<(?:!doctype\s+html|html|head|body|title|script|meta)\b",
    re.IGNORECASE | re.DOTALL,
)
_XML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml\b|\s*<Error>", re.I)
_CODE = re.compile(rb"<(?:Code|Message)>([^<]{1,200})<")
#: Where a server's JSON says what is wrong.
_KEYS = ("message", "error_description", "error", "detail", "title", "reason")


def recognised(source: Source, error: FileError) -> FileError:
    """The error of a reader, or a better one where the file shows to be something else. Never raises FileError."""
    try:
        head = source.read(0, min(source.size, _HEAD))
    except (FileError, OSError):
        return error
    for sign in _SIDE_FILES:
        if head.startswith(sign.sign):
            return UnknownFormat(f"{sign.name}; {sign.remedy}")
    text = in_place_of(head)
    if text:
        return MalformedFile(text)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        # It is a safetensors file, with what its reader found wrong.
        return error
    kind = type(error) if isinstance(error, MalformedFile | UnknownFormat) else MalformedFile
    for format_ in _FORMATS:
        if head.startswith(format_.sign, format_.offset) and not _is_said(format_, error):
            return kind(f"{format_.name}; {format_.remedy}")
    if head and not head.strip(b"\0"):
        return kind(f"zeros where its header should be, as of a download that only reserved its place; {_AGAIN}")
    if words := _words(head):
        return kind(f"a text, which begins with {words!r}; {_AGAIN}")
    return error


def in_place_of(head: bytes) -> str:
    """What a server or a tool gave in place of a file, with the remedy; empty if it does not look like that."""
    for pointer in _POINTERS:
        if head.startswith(pointer.sign):
            return f"{pointer.name}; fetch that: {pointer.remedy}"
    if _PAGE.match(head):
        return f"a web page, such as a login, in place of the file; {_SIGNED_IN}"
    if _XML.match(head):
        said = ": ".join(_quoted(found) for found in _CODE.findall(head)[:2])
        return f"an XML message of a server in place of the file{f' ({said})' if said else ''}; {_SIGNED_IN}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and (said := _json_message(head)):
        return f"a message of a server in place of the file ({said}); {_SIGNED_IN}"
    return ""


def _json_message(head: bytes) -> str:
    """What a server's JSON says is wrong; empty where it is no such JSON."""
    try:
        body = msgspec.json.decode(head.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return ""
    for key in _KEYS:
        found = body.get(key) if isinstance(body, dict) else None
        if isinstance(found, dict):
            found = next((found[inner] for inner in _KEYS if isinstance(found.get(inner), str)), None)
        if isinstance(found, str) and found:
            return _quoted(found.encode("utf-8", "replace"))
    return ""


def _is_said(format_: _Format, error: FileError) -> bool:
    """Whether a reader of this very format has found what is wrong: it knows more."""
    return format_.sign in (b"PK\x03\x04", b"\x80") and not error.reason.startswith("its header")


def _words(head: bytes) -> str:
    """The first line of a text; empty where it is none."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return ""
        text = head[: error.start].decode("utf-8-sig")
    line = text.strip().partition("\n")[0].strip()
    plain = all(char.isprintable() or char in "\r\n\t\f" for char in text)
    return line[:_QUOTED] if plain else ""


def _quoted(text: bytes) -> str:
    words = " ".join(text.decode("utf-8", "replace").split())
    return "".join(char if char.isprintable() else "?" for char in words)[:_QUOTED]
