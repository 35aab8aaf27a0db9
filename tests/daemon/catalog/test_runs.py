"""What files are called, and which training they came from, by the names that trainers give (SPEC section 4)."""

from __future__ import annotations

import pytest

from loracore.facts import Facts
from lorad.catalog.runs import called, run_name, with_marks

NOTHING = Facts()


def run(name: str, facts: Facts = NOTHING) -> str:
    found = called(f"/root/{name}".encode(), 1, facts).run
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("names", "of"),
    [
        (["a/cat-000004.safetensors", "a/cat-step00000500.safetensors", "a/cat (1).safetensors"], "/root/a/cat"),
        (["a/cat_000002500.safetensors", "a/Cat.safetensors", "a/cat - Copy (2).safetensors"], "/root/a/cat"),
        (["a/epoch-000001.safetensors", "a/epoch-000002.safetensors", "a/at-step00000500 (1).safetensors"], None),
        (
            ["s/cat-2025-02-03_12-10-00-save-200-10-0.safetensors", "s/cat2025-02-03_12-30-00.safetensors"],
            "/root/s/cat",
        ),
        (["s/2025-02-03_12-10-00-save-200-10-0.pt", "s/2025-02-03_12-20-00-save-400-20-0.pt"], "/root/s/"),
        (["p/adapter_model.safetensors", "p/checkpoint-40/adapter_model.safetensors"], "/root/p"),
        (["p/final/adapter_model.bin", "p/checkpoint-40/adapter_model.bin"], "/root/p"),
        (["p/pytorch_lora_weights.bin", "p/checkpoint-40/ema/pytorch_lora_weights.bin"], "/root/p"),
        (["p/checkpoint-40/sql/adapter_model.bin", "p/checkpoint-80/sql/adapter_model.bin"], "/root/p/sql"),
    ],
)  # fmt: skip
def test_names_that_differ_by_marks_alone_are_one_run(names: list[str], of: str | None) -> None:
    runs = {run(name) for name in names}
    if of is None:
        assert run(names[0]) == run(names[1]) != run(names[2])
    else:
        assert runs == {f"1 {of}"}


def test_one_name_is_no_run_where_the_base_or_the_trigger_words_differ() -> None:
    """`my_first_flux_lora_v1` is the name of ai-toolkit's example."""
    face, dog = Facts(output="first", triggers=("face",)), Facts(output="first", triggers=("dog",))
    assert run("a/first.safetensors", face) == run("b/first_000000250.safetensors", face)
    assert run("a/first.safetensors", face) != run("b/first.safetensors", dog)
    assert run("a/first.safetensors", dog) != run("a/first.safetensors", Facts(output="first", base="flux1"))
    assert run_name(run("a/first_000000250.safetensors", face), face) == "first"


def test_a_session_is_called_by_what_its_trainer_was_told() -> None:
    cat = Facts(session="77", output="Cat")
    assert run("a/x.safetensors", cat) == run("b/y.safetensors", cat)
    assert run_name(run("a/x.safetensors", cat), cat) == "Cat (session 77)"
    assert run_name(run("a/x.safetensors", Facts(session="77")), Facts(session="77")) == "session 77"


@pytest.mark.parametrize(
    ("name", "epoch", "steps"),
    [
        ("cat-000004.safetensors", 4, None),
        ("CAT-000004 - Copy (2).safetensors", 4, None),
        ("cat-240501.safetensors", None, None),
        ("cat_epoch_12.safetensors", 12, None),
        ("cat-step00000500 (1).safetensors", None, 500),
        ("cat_000002500.safetensors", None, 2500),
        ("cat_1700000000.safetensors", None, None),
        ("cat-2025-02-03_12-10-00-save-200-10-0.safetensors", 10, 200),
        ("cat-2025-02-03_12-10-00.safetensors", None, None),
        ("checkpoint-1500/adapter_model.safetensors", None, 1500),
        ("checkpoint-1500/sql/adapter_model.safetensors", None, 1500),
        ("adapter_model.safetensors", None, None),
        (f"cat-step{'9' * 5000}.safetensors", None, None),
    ],
)  # fmt: skip
def test_a_name_states_epoch_and_steps_where_the_header_does_not(
    name: str, epoch: int | None, steps: int | None
) -> None:
    found = with_marks(NOTHING, f"/root/{name}".encode())
    assert (found.epoch, found.steps) == (epoch, steps)
    known = with_marks(Facts(epoch=3), f"/root/{name}".encode())
    assert (known.epoch, known.steps) == (3, steps)


def test_a_weight_file_is_called_by_its_folder() -> None:
    assert called(b"/root/SQL/checkpoint-5/adapter_model.bin", 1, NOTHING)[::2] == ("sql/checkpoint-5", True)
    assert called(b"/root/sql/cat.bin", None, NOTHING) == ("cat", None, False)
