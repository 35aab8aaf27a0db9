"""The corpora by name: what is in each, and why it is measured."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.builders.architectures import Architecture, LayerSpec, flux, llm, sd15, sdxl
from tests.builders.weights import Layer, Layers, random_bytes, random_weights
from tests.builders.write import library_order

from bench.recorder import Recorder, bytes_up_to, nbytes


@dataclass(frozen=True)
class Scale:
    """How much smaller than life: channel counts divided, each n-th module, number of files divided.

    `files` is the number of files of the corpus `small`, which has no natural one.
    """

    width: int = 1
    every: int = 1
    count: int = 1
    files: int = 10_000

    def specs(self, architecture: Architecture, rank: int) -> list[LayerSpec]:
        return architecture(rank, width=self.width, every=self.every)

    def share(self, number: int) -> int:
        return max(1, number // self.count)


Recipe = Callable[[Recorder, Scale], None]


def mixed(make: Recorder, scale: Scale) -> None:
    """240 files, 3.3 GB, three layouts; 20 of the weights also as byte copy and with edited metadata."""
    kinds = (("sd15", sd15, 8, 140, 14), ("sdxl", sdxl, 4, 30, 3), ("flux", flux, 2, 30, 3))
    for number, (kind, architecture, rank, unique, doubled) in enumerate(kinds):
        specs = scale.specs(architecture, rank)
        for index in range(scale.share(unique)):
            layers = random_weights(specs, 1000 * number + index)
            weights = f"{kind} {index}"
            original = make.safetensors(
                f"{kind}/{kind}-{index:03}.safetensors", layers, weights, metadata=_notes(index)
            )
            if index < scale.share(doubled):
                make.copy(f"downloads/{kind}-{index:03} (1).safetensors", original)
                edited = _notes(index) | {
                    "ss_output_name": "renamed",
                    "ss_training_comment": "edited by hand",
                }
                make.safetensors(f"edited/{kind}-{index:03}.safetensors", layers, weights, metadata=edited)


def large(make: Recorder, scale: Scale) -> None:
    """40 files of 200 MB of one layout, one byte copy, one metadata variant: almost nothing must be read."""
    specs = scale.specs(flux, 21)
    unique = max(3, scale.share(38))
    for index in range(unique):
        layers = random_weights(specs, index)
        original = make.safetensors(f"style-{index:02}.safetensors", layers, f"{index}", metadata=_notes(index))
        if index == unique // 3:
            make.copy("style-copy.safetensors", original)
        if index == unique // 2:
            make.safetensors("style-edited.safetensors", layers, f"{index}", metadata={"title": "edited"})


def identical(make: Recorder, scale: Scale) -> None:
    """3 GB in 53 files: six sets of byte-identical copies, what tools for whole files are made for."""
    for index, copies in enumerate((20, 12, 8, 6, 4, 3)):
        layers = random_weights(scale.specs(sdxl, 8), index)
        original = make.safetensors(f"set-{index}/0.safetensors", layers, f"{index}", metadata=_notes(index))
        for copy in range(1, max(2, scale.share(copies))):
            make.copy(f"set-{index}/{copy}.safetensors", original)


def containers(make: Recorder, scale: Scale) -> None:
    """The same weights as safetensors, re-ordered, torch zip, legacy, nested; PEFT folders, their .bin."""
    for index in range(scale.share(10)):
        layers = random_weights(scale.specs(sd15, 16), index)
        weights = f"kohya {index}"
        make.safetensors(f"lora-{index}.safetensors", layers, weights, metadata=_notes(index))
        backwards = library_order(layers)[::-1]
        make.safetensors(f"lora-{index}-reordered.safetensors", layers, weights, order=backwards)
        make.checkpoint(f"lora-{index}.pt", layers, weights)
        make.checkpoint(f"lora-{index}-legacy.pt", layers, weights, legacy=True)
        make.checkpoint(f"lora-{index}-nested.ckpt", layers, weights, nested="state_dict")
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    for index in range(scale.share(6)):
        layers = random_weights(scale.specs(llm, 8), 100 + index)
        weights = f"peft {index}"
        original = make.peft_folder(f"adapter-{index}", layers, weights, rank=8, targets=targets)
        if index % 2 == 0:
            make.copy_folder(f"adapter-{index}-copy", original)
            make.checkpoint(f"adapter-{index}-old/adapter_model.bin", layers, weights)


def epochs(make: Recorder, scale: Scale) -> None:
    """Four trainings of five epochs that differ in one late layer, and 20 other files.

    Each training's last epoch is there once more under the final name, as kohya saves it. Half of the text
    encoder's layers are zero in every file.
    """
    specs = scale.specs(sd15, 16)
    zero = r"^lora_te_.*lora_up"
    for training in range(4):
        first = random_weights(specs, training, zero=zero)
        late = _late_layer(first)
        for epoch in range(5):
            layers = first if epoch == 0 else first | {late: _redrawn(first[late], f"{training} {epoch}")}
            make.safetensors(
                f"training-{training}/epoch-{epoch:06}.safetensors",
                layers,
                f"{training} {epoch}",
                metadata=_notes(training) | {"ss_epoch": str(epoch)},
                late=bytes_up_to(first, late),
            )
        make.safetensors(
            f"training-{training}/final.safetensors", layers, f"{training} 4", metadata=_notes(training)
        )
    for index in range(scale.share(20)):
        layers = random_weights(specs, 100 + index, zero=zero)
        make.safetensors(f"other-{index:02}.safetensors", layers, f"other {index}", metadata=_notes(index))


def small(make: Recorder, scale: Scale) -> None:
    """Many small files: four fifths with an own layout and a hole for weights, the rest in 300 layouts.

    Among those of a shared layout, the first two of each tenth layout are copies.
    """
    layouts = max(1, min(300, scale.files // 25))
    for index in range(scale.files):
        name = f"{index // 1000:03}/{index:06}.safetensors"
        if index % 5:
            make.sparse(name, _small_specs(f"own_{index}", 4, 16_384), f"{index}", metadata=_notes(index))
            continue
        turn, layout = divmod(index // 5, layouts)
        # Copies are drawn from the same seed; `layout` is also index // 5 of the first file of its layout.
        seed = layout if turn == 1 and layout % 10 == 0 else index // 5
        layers = random_weights(_small_specs(f"shared_{layout}", 2, 4096), seed)
        make.safetensors(name, layers, f"{seed}", metadata=_notes(index))


def multi_gb(make: Recorder, scale: Scale) -> None:
    """Two files of one layer of 4.5 GB, with edited metadata: offsets beyond 32 bits, layers beyond any slab.

    The layer is a hole but for some random pieces, so that making it takes no disk and reading it no seek.
    """
    spec = LayerSpec(
        "base_model.model.lm_head.lora_B.weight", "F32", (4_500_000_000 // 4 // 64 // scale.width, 64)
    )
    rng = random.Random(1)
    last = nbytes(spec) - 65_536
    pieces = {spec.name: {last * part // 8 // 8 * 8: random_bytes(rng, "F32", 65_536) for part in range(9)}}
    for name in ("first", "edited"):
        make.sparse(f"{name}.safetensors", [spec], "giant", metadata={"title": name}, pieces=pieces)


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe for recipe in (mixed, large, identical, containers, epochs, small, multi_gb)
}


def _notes(index: int) -> dict[str, str]:
    """Metadata as kohya writes it, different for every training."""
    rng = random.Random(index)
    return {
        "ss_output_name": f"training-{index}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "8.0",
        "ss_session_id": str(rng.getrandbits(32)),
        "ss_learning_rate": str(rng.choice((1e-4, 5e-5, 2e-4))),
        "ss_num_train_images": str(rng.randrange(20, 400)),
    }


def _late_layer(layers: Layers) -> str:
    """The largest layer in the last tenth of the file."""
    order = library_order(layers)
    return max(order[len(order) * 9 // 10 :], key=lambda name: len(layers[name][2]))


def _redrawn(layer: Layer, seed: str) -> Layer:
    dtype, shape, data = layer
    return dtype, shape, random_bytes(random.Random(seed), dtype, len(data))


def _small_specs(key: str, modules: int, elements: int) -> list[LayerSpec]:
    return list(_small_modules(key, modules, elements))


def _small_modules(key: str, modules: int, elements: int) -> Iterator[LayerSpec]:
    for module in range(modules):
        root = f"lora_unet_{key}_blocks_{module}_attn1_to_q"
        yield LayerSpec(f"{root}.alpha", "F16", ())
        yield LayerSpec(f"{root}.lora_down.weight", "F16", (4, elements // 4))
        yield LayerSpec(f"{root}.lora_up.weight", "F16", (elements // 4, 4))
