"""`hashes`: what people look models up by, as the libraries compute it, in one read (SPEC section 6)."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import blake3
import pytest
import torch
from safetensors.torch import load_file, save

from loracore.errors import ChangedFile, FileError, MalformedFile
from loracore.jobs.hashes import HashesParameters, HashesResult
from loracore.jobs.job import Alone, Cancelled
from loracore.tensorfile import open_container
from lorakit.filehash.legacy import ORDER
from lorakit.filehash.shared_read import Excerpt, Piece
from lorakit.jobs.hashes.job import JOB
from tests.builders import real
from tests.builders.architectures import LayerSpec, sd15
from tests.builders.weights import random_weights
from tests.builders.write import save_checkpoint, write_safetensors

TRAINED = {
    "ss_network_dim": "8",
    "ss_tag_frequency": '{"10_cat": {"grüße": 3, "\\u0001": 1}}',
    "ss_note": 'a"\\\n\t\x7f',
}
TORCH_DTYPES = (
    "bool", "uint8", "int8", "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "int16", "uint16", "float16", "bfloat16", "int32", "uint32", "float32", "complex64",
    "float64", "int64", "uint64",
)  # fmt: skip
EDITED = {**TRAINED, "sshs_model_hash": "0" * 64, "title": "edited later", "modelspec.title": "x"}


def hashes(path: str | Path, threads: int = 2) -> HashesResult:
    return JOB.run(HashesParameters(os.fsencode(path)), Alone(threads))


def kohyas(path: str | Path, metadata: Mapping[str, str]) -> str:
    """As sd-scripts does it: everything in memory, by the library."""
    content = save(load_file(path), {key: value for key, value in metadata.items() if key.startswith("ss_")})
    return hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def big(folder: Path, *, metadata: Mapping[str, str] | None = EDITED, shuffled: bool = False) -> Path:
    """A file of a few MiB, as a trainer writes it or with its tensors in another order."""
    layers = random_weights(
        [*sd15(32, every=8), LayerSpec("norm", "F32", (3, 5)), LayerSpec("empty", "F16", (0,))], 1
    )
    order = random.Random(3).sample(sorted(layers), len(layers)) if shuffled else None
    path = folder / "big.safetensors"
    write_safetensors(str(path), layers, metadata=metadata, order=order, padding=3)
    assert 1 << 21 < path.stat().st_size < 20 << 20
    return path


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_hash_is_that_of_the_naive_computation(tmp_path: Path, threads: int) -> None:
    """Whatever the threads, also where the file is no whole number of blocks."""
    path = big(tmp_path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    found = hashes(path, threads)
    model = hashlib.sha256(data[8 + length :]).hexdigest()
    assert found.size == len(data)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.autov1 == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert found.autov2 == found.sha256[:10]
    assert found.sshs_model_hash == model
    assert found.autov3 == model[:12]
    assert found.blake3 == blake3.blake3(data).hexdigest()
    assert int(found.crc32, 16) == zlib.crc32(data)
    assert len(found.crc32) == 8


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("metadata", [EDITED, TRAINED, {"title": "x"}, {}, None])
def test_the_legacy_hash_is_kohyas(tmp_path: Path, shuffled: bool, metadata: dict[str, str] | None) -> None:
    """Of the file that the library would write, whatever order, padding and metadata this one has."""
    path = big(tmp_path, metadata=metadata, shuffled=shuffled)
    assert hashes(path).sshs_legacy_hash == kohyas(path, metadata or {})


def test_the_legacy_hash_knows_the_librarys_order_of_dtypes(tmp_path: Path) -> None:
    """Every dtype that torch can hand to the library lies where the library puts it."""
    tensors = {
        f"t{number}": torch.full((96 << 10,), 1 + number % 2, dtype=torch.uint8).view(getattr(torch, name))
        for number, name in enumerate(TORCH_DTYPES)
    }
    path = tmp_path / "dtypes.safetensors"
    path.write_bytes(save(tensors, {}))
    layers = open_container(str(path)).layout.layers
    offsets = open_container(str(path)).arrangement.offsets
    written = [layer.dtype for _, layer in sorted(zip(offsets, layers, strict=True))]
    assert written == [dtype for dtype in ORDER if dtype in written]
    assert len(written) == len(TORCH_DTYPES)
    assert hashes(path).sshs_legacy_hash == kohyas(path, {})


def test_the_legacy_hash_of_a_small_file_is_kohyas_too(tmp_path: Path) -> None:
    """Where the range is empty or ends early, what the trainer writes is what there is to compare with."""
    for size in (10, 0x100000 // 2 - 40, 0x100000 // 2 + 5000):
        layers = {"a.lora_down.weight": ("F16", (size,), os.urandom(2 * size))}
        path = write_safetensors(str(tmp_path / f"{size}.safetensors"), layers, metadata=TRAINED)
        found = hashes(path)
        assert found.sshs_legacy_hash == kohyas(path, TRAINED)
        assert found.autov1 is None


def test_the_legacy_hash_reaches_into_a_long_header(tmp_path: Path) -> None:
    """With one long entry of metadata the header's end, or with many layers their table, lies in the range."""
    weights = random_weights(sd15(2, every=30), 1)
    one = {"ss_tag_frequency": "x" * 0x100100}
    path = write_safetensors(str(tmp_path / "one.safetensors"), weights, metadata=one)
    assert hashes(path).sshs_legacy_hash == kohyas(path, one)
    long = {f"{number:05d}{'n' * 200}": ("F32", (1,), bytes([1, 2, 3, number % 100])) for number in range(5000)}
    path = write_safetensors(str(tmp_path / "table.safetensors"), long, metadata=TRAINED)
    assert hashes(path).sshs_legacy_hash == kohyas(path, TRAINED)


def test_a_legacy_hash_that_is_left_to_chance_is_not_given(tmp_path: Path) -> None:
    """Metadata that reach into the range were written in an order that nobody knows any more."""
    metadata = {"ss_tag_frequency": "x" * 0x100100, "ss_network_dim": "8"}
    weights = random_weights(sd15(2, every=30), 1)
    path = write_safetensors(str(tmp_path / "many.safetensors"), weights, metadata=metadata)
    assert len({kohyas(path, metadata) for _ in range(20)}) > 1
    found = hashes(path)
    assert found.sshs_legacy_hash is None
    assert found.autov1 is not None


def test_hashes_in_the_header_are_not_believed(tmp_path: Path) -> None:
    """What is told is computed; that the header says otherwise is told too."""
    layers = random_weights(sd15(2, every=30), 1)
    path = write_safetensors(str(tmp_path / "a.safetensors"), layers, metadata=EDITED)
    found = hashes(path)
    assert found.sshs_model_hash != "0" * 64
    assert len(found.warnings) == 1
    assert "sshs_model_hash" in found.warnings[0]
    right = {"sshs_model_hash": str(found.sshs_model_hash)}
    assert hashes(write_safetensors(path, layers, metadata=right)).warnings == ()


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_have_the_hashes_of_whole_files(tmp_path: Path, legacy: bool) -> None:
    """A `.pt` has no safetensors header, and so none of the hashes that begin behind it."""
    path = save_checkpoint(str(tmp_path / "a.pt"), random_weights(sd15(32, every=8), 1), legacy=legacy)
    data = Path(path).read_bytes()
    found = hashes(path)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.autov1 == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert found.blake3 == blake3.blake3(data).hexdigest()
    assert (found.autov3, found.sshs_model_hash, found.sshs_legacy_hash) == (None, None, None)


def test_files_of_no_known_kind_have_the_hashes_of_whole_files(tmp_path: Path) -> None:
    """An archive, a pickle that wants more than weights: what it is can be looked up without loading it."""
    for name, data in (
        ("a.zip", b"PK"),
        ("a.txt", b""),
        ("bad.pt", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        found = hashes(path)
        assert found.sha256 == hashlib.sha256(data).hexdigest()
        assert found.crc32 == f"{zlib.crc32(data):08x}"
        assert found.autov3 is None


def test_files_of_the_real_writers(tmp_path: Path) -> None:
    """PEFT (by its folder), diffusers and the library; the model hash is that of all behind the header."""
    folder = tmp_path / "peft"
    paths = [*real.by_peft(str(folder)), *real.by_safetensors(str(tmp_path))]
    paths += [path for path in real.by_diffusers(str(tmp_path)) if path.endswith(".safetensors")]
    for path in paths:
        data = Path(path).read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        assert hashes(path).sshs_model_hash == hashlib.sha256(data[begin:]).hexdigest()
    assert hashes(folder) == hashes(folder / "adapter_model.safetensors")


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    """Written to, shortened, replaced or removed while it is read: no hash of a mixture."""

    class Meddling(Alone):
        def __init__(self, meddle: Callable[[], object]) -> None:
            super().__init__(2)
            self.meddle: Callable[[], object] | None = meddle

        def progress(self, done: float, total: float, what: str = "") -> None:
            if done and self.meddle is not None:
                self.meddle()
                self.meddle = None

    path = big(tmp_path)

    def write() -> None:
        with open(path, "r+b") as file:
            file.write(b"x")

    def replace() -> None:
        (tmp_path / "new").write_bytes(b"x")
        os.replace(tmp_path / "new", path)

    for meddle in (write, lambda: os.truncate(path, 1 << 20), replace, path.unlink):
        big(tmp_path)
        with pytest.raises((ChangedFile, MalformedFile), match=r"big\.safetensors"):
            JOB.run(HashesParameters(os.fsencode(path)), Meddling(meddle))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_it_ends_when_it_is_told_to(tmp_path: Path, threads: int) -> None:
    """Progress grows to the size of the file; a cancelled job leaves no thread behind."""
    path = big(tmp_path)
    told: list[float] = []
    JOB.run(
        HashesParameters(os.fsencode(path)), Alone(threads, lambda done, total, what: told.append(done / total))
    )
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == 1

    def cancel(done: float, total: float, what: str) -> None:
        if done:
            raise Cancelled("cancelled")

    before = threading.active_count()
    with pytest.raises(Cancelled):
        JOB.run(HashesParameters(os.fsencode(path)), Alone(threads, cancel))
    assert threading.active_count() == before


def test_bad_files_are_named(tmp_path: Path) -> None:
    """Damaged, missing, a folder without weights: one line that names the file."""
    broken = big(tmp_path)
    os.truncate(broken, 1 << 20)
    for path in (broken, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(FileError) as caught:
            hashes(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """What is allocated while a file of 64 MiB is hashed stays within the ring."""
    path = tmp_path / "long.bin"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        hashes(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_an_excerpt_gathers_its_pieces_from_any_blocks() -> None:
    """Pieces that overlap, touch or span blocks come out as a slice of the whole would."""
    rng = random.Random(5)
    data = rng.randbytes(5000)
    for _ in range(200):
        spans = [(start := rng.randrange(5000), rng.randrange(5000 - start + 1)) for _ in range(rng.randrange(6))]
        pieces, expected = [], b""
        for start, length in spans:
            pieces.append(Piece(start, length, len(expected)))
            expected += data[start : start + length]
        excerpt = Excerpt(len(expected), pieces)
        size = rng.choice([1, 7, 1000, 6000])
        for begin in range(0, len(data), size):
            excerpt.feed(memoryview(data)[begin : begin + size])
        assert bytes(excerpt.data) == expected
