"""`python -m bench.demo DIR`: a small library as people have it, for `make run`. Leaves a filled DIR alone.

Needs the standard library alone. Everything that a first scan should show is there: copies in every
disguise, epochs that only look alike, links, side files, and downloads that went wrong.
"""

from __future__ import annotations

import os
import random
import shutil
import sys

from tests.builders.architectures import LayerSpec, flux, llm, sd15, sdxl
from tests.builders.weights import Layers, random_bytes, random_weights
from tests.builders.write import library_order, write_peft_folder, write_safetensors


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.demo DIR")
    make_demo(sys.argv[1])


def make_demo(folder: str) -> bool:
    """Fill `folder` with about 25 files, 15 MB in all; False where it already holds something."""
    if os.path.isdir(folder) and os.listdir(folder):
        return False
    for name in ("sd15/characters", "sd15/styles", "sdxl", "flux", "llm", "downloads", "training/mosswood"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    _unique_files(folder)
    _copies(folder)
    _epochs(folder)
    _broken(folder)
    return True


def _unique_files(folder: str) -> None:
    people = sd15(4, width=4, every=2)
    for seed, name in enumerate(("characters/captain_brine", "characters/ada_clockmaker", "styles/woodcut_1920")):
        _write(folder, f"sd15/{name}.safetensors", random_weights(people, seed, alpha=4))
    for seed, name in enumerate(("styles/watercolour_soft", "styles/pixel_garden"), start=10):
        _write(folder, f"sd15/{name}.safetensors", random_weights(sd15(8, width=8, every=2), seed, alpha=8))
    rooms = sdxl(4, width=8, every=6)
    for seed, name in enumerate(("brutalist_rooms", "add_detail_xl", "film_grain"), start=20):
        _write(folder, f"sdxl/{name}.safetensors", random_weights(rooms, seed, alpha=4))
    transformer = flux(4, width=8, every=4)
    for seed, name in enumerate(("neon_harbour", "studio_portrait"), start=30):
        _write(folder, f"flux/{name}.safetensors", random_weights(transformer, seed, alpha=4))
    adapter = random_weights(_adapter(), 40)
    write_peft_folder(os.path.join(folder, "llm/support-replies"), adapter, rank=8, targets=("q_proj", "v_proj"))


def _copies(folder: str) -> None:
    """One file of each kind of sameness: bytes, layers alone, one inode, a link."""
    people = random_weights(sd15(4, width=4, every=2), 0, alpha=4)
    brine = os.path.join(folder, "sd15/characters/captain_brine.safetensors")
    shutil.copyfile(brine, os.path.join(folder, "downloads/captain_brine (1).safetensors"))
    _write(folder, "downloads/captain_brine_v2_FINAL.safetensors", people, ss_training_comment="trigger: brine")
    rooms = random_weights(sdxl(4, width=8, every=6), 20, alpha=4)
    _write(folder, "downloads/brutalist_rooms_repacked.safetensors", rooms, library_order(rooms)[::-1])
    harbour = os.path.join(folder, "flux/neon_harbour.safetensors")
    shutil.copyfile(harbour, os.path.join(folder, "downloads/neon_harbour (1).safetensors"))
    os.link(harbour, os.path.join(folder, "flux/favourite.safetensors"))
    os.symlink("../sdxl/film_grain.safetensors", os.path.join(folder, "downloads/film_grain.safetensors"))
    shutil.copytree(
        os.path.join(folder, "llm/support-replies"), os.path.join(folder, "llm/support-replies-backup")
    )


def _epochs(folder: str) -> None:
    """Two epochs of one training that differ in a single layer near the end: alike, but not duplicates."""
    first = random_weights(sd15(4, width=4, every=2), 50, alpha=4, zero=r"^lora_te_.*lora_up")
    late = [name for name in library_order(first) if name.endswith("lora_up.weight")][-2]
    dtype, shape, data = first[late]
    second = {**first, late: (dtype, shape, random_bytes(random.Random(51), dtype, len(data)))}
    for epoch, layers in (("000008", first), ("000009", second)):
        _write(folder, f"training/mosswood/mosswood-{epoch}.safetensors", layers, ss_epoch=epoch)


def _broken(folder: str) -> None:
    whole = os.path.join(folder, "sdxl/add_detail_xl.safetensors")
    with open(whole, "rb") as source:
        start = source.read(os.path.getsize(whole) // 3)
    for name, content in (
        ("downloads/add_detail_xl.safetensors", start),
        ("downloads/studio_portrait_v2.safetensors.part", start[:4096]),
        ("downloads/placeholder.safetensors", b""),
        ("sd15/characters/captain_brine.txt", b"captain brine, weathered face, oilskin coat\n"),
        ("sd15/characters/captain_brine.preview.png", _PIXEL),
    ):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)


def _adapter() -> list[LayerSpec]:
    return llm(8, width=16, blocks=8, targets=("q_proj", "v_proj"))


def _write(folder: str, name: str, layers: Layers, order: list[str] | None = None, **metadata: str) -> None:
    title = os.path.splitext(os.path.basename(name))[0]
    described = {"ss_output_name": title, "ss_network_module": "networks.lora", **metadata}
    write_safetensors(os.path.join(folder, name), layers, order=order, metadata=described)


#: A picture of one grey pixel.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)

if __name__ == "__main__":
    main()
