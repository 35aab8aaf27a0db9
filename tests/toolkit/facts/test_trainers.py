"""Facts of files as each trainer writes them (SPEC section 4): what is stated, and not what a template says."""

from __future__ import annotations

from pathlib import Path

import lorakit
from loracore.facts import Facts
from tests.builders import real, trainers
from tests.builders.architectures import flux, llm, sdxl
from tests.builders.weights import Layers, random_weights
from tests.builders.write import write_peft_folder, write_safetensors
from tests.toolkit.facts.test_header import of

SDXL = random_weights(sdxl(4, width=16, every=10), 1, alpha=2)
FLUX = random_weights(flux(4, width=16, every=10), 1, alpha=4)


def stated(folder: Path, metadata: dict[str, str], layers: Layers = SDXL) -> Facts:
    return of(write_safetensors(str(folder / "a.safetensors"), layers, metadata=metadata))


def test_kohya_states_a_version_and_a_file_of_its_base(tmp_path: Path) -> None:
    found = stated(tmp_path, trainers.kohya("ohwx", "1029", 4, 400))
    assert (found.base, found.base_file) == ("sdxl_base_v1-0", "ponyDiffusionV6XL.safetensors")
    assert (found.trainer, found.epoch, found.steps) == ("kohya sd-scripts e0a3c69223c7", 4, 400)
    assert (found.triggers, found.tags[:2]) == (("ohwx woman",), (("woman", 50), ("ohwx woman", 20)))
    assert (found.output, found.session, found.problem) == ("ohwx", "1029", None)


def test_class_tokens_are_trigger_words_and_images_of_the_class_are_not(tmp_path: Path) -> None:
    assert stated(tmp_path, trainers.kohya("ohwx", "1", 4, 400, toml=True)).triggers == ("ohwx woman",)


def test_musubi_tuner_writes_kohyas_keys(tmp_path: Path) -> None:
    found = stated(tmp_path, trainers.musubi("dance", "4242", 8, 240))
    assert (found.trainer, found.epoch, found.steps, found.session) == ("musubi-tuner", 8, 240, "4242")
    assert (found.base, found.base_file) == ("wan2.1", "wan2.1_t2v_14B_bf16.safetensors")
    bare = {"ss_network_module": "networks.lora_qwen_image", "ss_network_dim": "4"}
    assert stated(tmp_path, bare).trainer == "musubi-tuner"


def test_onetrainers_template_says_nothing_of_a_model(tmp_path: Path) -> None:
    """Its title and author are of the base model; its configuration states how many epochs were planned."""
    found = stated(tmp_path, trainers.onetrainer("models/ghibli.safetensors"))
    assert (found.title, found.output, found.author) == ("ghibli", "ghibli", None)
    assert (found.base, found.base_file) == ("stable-diffusion-xl-v1-base", "illustriousXL_v01.safetensors")
    assert (found.epoch, found.steps, found.alpha) == (None, None, 2.0)
    assert (found.trainer, found.date) == ("OneTrainer master 3f2a9c1", "2025-02-03")
    unnamed = stated(tmp_path, trainers.onetrainer("C:\\models\\model.safetensors", "org/base-1.5"))
    assert (unnamed.title, unnamed.output, unnamed.base_file) == (None, None, "org/base-1.5")
    assert stated(tmp_path, trainers.onetrainer(None)).title is None
    own = {**trainers.onetrainer(None), "modelspec.title": "Flux Ghibli LoRA", "modelspec.author": "StabilityAI"}
    assert (stated(tmp_path, own).title, stated(tmp_path, own).author) == ("Flux Ghibli LoRA", "StabilityAI")


def test_ai_toolkit_states_its_trigger_word_as_a_tag(tmp_path: Path) -> None:
    found = stated(tmp_path, trainers.ai_toolkit("face", 750, 15, "p3rs0n"), FLUX)
    assert (found.triggers, found.tags) == (("p3rs0n",), (("p3rs0n", 1),))
    assert (found.trainer, found.epoch, found.steps) == ("ai-toolkit 0.12.26", 15, 750)
    assert (found.base, found.base_file, found.title, found.output) == ("flux1", None, "face", "face")
    assert stated(tmp_path, trainers.ai_toolkit("face", 750, 15, None), FLUX).triggers == ()


def test_simpletuner_is_told_from_diffusers(tmp_path: Path) -> None:
    found = stated(tmp_path, trainers.simpletuner("checkpoint-500", 500), FLUX)
    assert (found.trainer, found.steps, found.title) == ("SimpleTuner", 500, None)
    assert (found.triggers, found.base, found.alpha) == (("a photo of jlxy",), "flux-1-dev", 4.0)
    assert stated(tmp_path, trainers.simpletuner("jlxy", 1500), FLUX).title == "jlxy"


def test_a_model_card_states_what_nothing_else_does(tmp_path: Path) -> None:
    """Its licence, its trainer and its prompt; the header and `adapter_config.json` are asked first."""
    path = write_peft_folder(str(tmp_path / "chat"), random_weights(llm(4), 1), rank=4, targets=["q_proj"])
    card = tmp_path / "chat/README.md"
    card.write_text("---\nbase_model: org/other\nlicense: llama3\ntags:\n- axolotl\n- trl\n---\n")
    found = of(path)
    assert (found.base, found.licence, found.trainer) == ("meta-llama/Meta-Llama-3-8B", "llama3", "axolotl")
    assert lorakit.metadata(path)["model_info"]["license"] == "llama3"
    # TRL's own cards have the key misspelt, with a word that is none.
    card.write_text("---\nlicence: license\ntags: [trl]\n---\n")
    assert (of(path).licence, of(path).trainer) == (None, "TRL")
    (tmp_path / "flux").mkdir()
    text = "base_model: org/FLUX\nlicense: other\nlicense_name: flux-1-dev\ninstance_prompt: a photo of sks dog"
    (tmp_path / "flux/README.md").write_text(f"---\n{text}\n---\n")
    (path,) = real.by_diffusers(str(tmp_path / "flux"), config={"r": 4})[:1]
    found = of(path)
    assert (found.base, found.licence, found.triggers) == ("org/FLUX", "flux-1-dev", ("a photo of sks dog",))
    # A library's own README says nothing of its files.
    assert of(write_safetensors(str(tmp_path / "flux/a.safetensors"), FLUX)).licence is None
