"""Model cards beside adapters: as trainers and the Hugging Face hub write them, and as strangers do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loracore.adapter.card import card_entries, card_text, has_card
from tests.builders import real


def test_what_peft_writes_is_read(tmp_path: Path) -> None:
    real.by_peft(str(tmp_path))
    text = card_text(os.fsencode(tmp_path))
    assert text is not None
    entries = card_entries(text)
    assert entries["library_name"] == "peft"
    assert "lora" in entries["tags"]


def test_what_the_hub_s_library_writes_is_read_alike(tmp_path: Path) -> None:
    """It writes by PyYAML: long texts over several lines, and quotes where they are needed."""
    from huggingface_hub import ModelCardData

    said = {
        "license": "other", "license_name": "flux-1-dev", "base_model": "org/Base-1.5: x",
        "instance_prompt": "a photo of sks dog, " * 12 + "it's", "tags": ["a b", "it's", "base_model:lora:org/x"],
        "model_name": "#1", "language": "no",
    }  # fmt: skip
    (tmp_path / "README.md").write_text(f"---\n{ModelCardData(**said).to_yaml()}\n---\n\n# Title\n")
    text = card_text(os.fsencode(tmp_path))
    assert text is not None
    found = card_entries(text)
    assert {key: found[key] for key in said} == said


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ('license: mit  # yes\nbase_model: "a \\"b\\""', {"license": "mit", "base_model": 'a "b"'}),
        ("instance_prompt: >-\n  a photo of\n  sks dog", {"instance_prompt": "a photo of sks dog"}),
        ("tags: [lora, 'x y']\nwidget:\n- text: x\n  output:\n    url: y", {"tags": ["lora", "x y"]}),
        ("tags:\n-   lora\n-   flux\n\nlicense:\nname: null", {"tags": ["lora", "flux"]}),
        ("base_model: {a: 1}\nmodel-index:\n  a: b\nx: &y 1\nz: *y", {}),
        ("- a\n b\n: c\n\x00\xff", {}),
        ("license: " + "'" * 60_001, {}),
    ],
)  # fmt: skip
def test_only_texts_and_lists_of_texts_are_read(text: str, entries: dict[str, object]) -> None:
    found = card_entries(text.encode("latin-1"))
    assert {key: value for key, value in found.items() if key != "license" or "'" not in value} == entries


def test_what_is_no_card_states_nothing(tmp_path: Path) -> None:
    folder, card = os.fsencode(tmp_path), tmp_path / "README.md"
    assert card_text(folder) is None
    for text in ("# Title\n", "---\nlicense: mit\n", "---\n" + "a: b\n" * 100_000 + "---\n", ""):
        card.write_text(text)
        assert card_text(folder) is None
    card.unlink()
    os.mkfifo(card)
    assert card_text(folder) is None
    card.unlink()
    card.write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n")
    assert card_entries(card_text(folder) or b"") == {"license": "mit"}


def test_a_card_speaks_of_a_folder_s_own_weights_alone() -> None:
    assert has_card(b"/x/adapter_model.safetensors")
    assert has_card(b"/x/pytorch_lora_weights.bin")
    assert not has_card(b"/loras/cat.safetensors")
