"""Every table of names, forwards and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest

from loracore.jobs.convert import CONVENTIONS as CONVERTED
from loracore.names import canonical
from loracore.names.conventions import CONVENTIONS, PREFIXES, Nameless, bare, key_of, suffix_of, written
from loracore.names.conventions.diffusers import part_of
from loracore.names.conventions.peft import PEFT_PREFIX
from loracore.names.families import families, family_named, positions
from loracore.names.family import Family
from loracore.names.keys import parse_key
from loracore.names.originals import diffusers_names, original_part

FAMILIES = families()
DENOISERS = [name for name, family in FAMILIES.items() if family.component in {"unet", "transformer"}]
RENAMED = [name for name, family in FAMILIES.items() if family.renamed]


def filled(template: str) -> str:
    """A name that a template stands for."""
    return template.replace("#", "0")


def own_names(family: Family) -> Iterator[str]:
    """Canonical names of a denoiser's modules: diffusers' in a UNet, in a transformer those of both."""
    yield from map(filled, family.diffusers)
    if family.component == "transformer":
        yield from map(filled, family.original)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_stands_in_a_table_once_and_its_underscored_form_leads_back(family: str) -> None:
    record = FAMILIES[family]
    kind = "te1" if record.component == "te" else "unet"
    for table in (record.original, record.diffusers):
        assert max(Counter(table).values(), default=1) == 1
        names = [filled(template) for template in table]
        assert canonical.dotted([name.replace(".", "_") for name in names], kind) == {
            name.replace(".", "_"): name for name in names
        }


@pytest.mark.parametrize("family", RENAMED)
def test_each_of_diffusers_modules_leads_back_to_its_part_of_the_original(family: str) -> None:
    record = FAMILIES[family]
    for original in map(filled, record.renamed):
        names = diffusers_names(family, original)
        assert names is not None
        for place, name in enumerate(names):
            part = original_part(family, name)
            assert part is not None
            assert (part.original, part.place, part.of) == (original, place, len(names))
    theirs = [piece.name for pieces in record.renamed.values() for piece in pieces]
    assert len(set(theirs)) == len(theirs)
    # What is renamed or swapped is a module that the family has.
    numbers = re.compile(r"\d+")
    known = {numbers.sub("#", name) for name in record.original}
    if record.component == "transformer":
        assert {numbers.sub("#", name) for name in record.renamed} <= known
        assert {numbers.sub("#", name) for name in record.swapped} <= known


def named(convention: str, family: Family) -> Iterator[tuple[str, str, str]]:
    """Stem, component and name of all modules that a convention has a name for."""
    names: list[tuple[str, str]] = [(family.component, name) for name in own_names(family)]
    for encoder in family.encoders:
        known = map(filled, FAMILIES["t5" if encoder == "te3" else "clip"].diffusers)
        # What transformers 5 has instead is read as the same module.
        names += [(encoder, f"{encoder}.{name}") for name in known if not name.startswith("encoder.layers.")]
    for component, name in names:
        with suppress(Nameless):
            yield key_of(convention, component, name, family.name), component, name


def read(stems: Iterable[str], convention: str) -> dict[str, tuple[str, str]]:
    """Component and canonical name by stem, as of one file."""
    split = {stem: canonical.split_stem(stem, convention == "peft") for stem in stems}
    flat = [rest for _, rest, is_flat in split.values() if is_flat]
    known = {kind: canonical.dotted(flat, kind) for kind in ("te", "unet")}
    return {
        stem: canonical.canonical(
            part, known["te" if part.startswith("te") else "unet"][rest] if is_flat else rest
        )
        for stem, (part, rest, is_flat) in split.items()
    }


#: Beginnings of modules that are not read as they are written: they are taken for a language model's.
LOST = {
    ("diffusers", "lumina"): ("layers.0.",),
    ("diffusers", "wan"): ("blocks.0.norm3", "blocks.0.modulation"),
}


@pytest.mark.parametrize("convention", written())
@pytest.mark.parametrize("family", DENOISERS)
def test_every_stem_that_is_written_is_read_as_the_module(convention: str, family: str) -> None:
    """Its canonical name comes back; or its other name, where original and diffusers differ."""
    record, lost = family_named(family), []
    stems = list(named(convention, record))
    found = read((stem for stem, _, _ in stems), convention)
    for stem, component, name in stems:
        part, again = found[stem]
        if component.startswith("te"):
            assert bare(part, again) == bare(component, name)
            # PEFT has no prefix that says the component, and both have their own numbers for T5.
            assert convention == "peft" or part_of(part, record) == part_of(component, record)
            continue
        whole = original_part(family, name)
        same = {name, *(diffusers_names(family, name) or ()), *([whole.original] if whole else [])}
        if again not in same:
            lost.append(name)
        else:
            assert part == component or convention == "peft"
    beginnings = LOST.get((convention, family), ())
    assert bool(lost) == bool(beginnings)
    assert all(name.startswith(beginnings) for name in lost)


def test_no_two_conventions_have_one_suffix_or_prefix() -> None:
    suffixes = [suffix.text for convention in CONVENTIONS.values() for suffix in convention.suffixes]
    prefixes = [prefix.text for convention in CONVENTIONS.values() for prefix in convention.prefixes]
    assert max(Counter(suffixes).values()) == max(Counter(prefixes).values()) == 1


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_suffix_is_read_as_its_role_and_written_for_it(convention: str) -> None:
    record = CONVENTIONS[convention]
    for suffix in record.suffixes:
        key = parse_key(f"stem.of.it.{suffix.text}")
        assert key is not None
        assert (key.stem, key.role, key.convention) == ("stem.of.it", suffix.role, convention)
    for suffix in (*record.suffixes, *record.borrowed):
        for component in ("unet", "te1") if convention in written() else ():
            if suffix.written in {"always", "text" if component == "te1" else "denoiser"}:
                key = parse_key(f"stem{suffix_of(convention, suffix.role, component)}")
                assert key is not None
                assert (key.stem, key.role) == ("stem", suffix.role)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_is_read_as_its_component(prefix: str) -> None:
    name = "conv_in" if prefix.endswith("_") else "conv_in.1"
    assert canonical.split_stem(prefix + name, False) == (PREFIXES[prefix], name, prefix.endswith("_"))


def test_every_prefix_that_is_written_is_one_components() -> None:
    for convention in CONVENTIONS.values():
        for prefix in convention.prefixes:
            for component in prefix.written:
                assert convention.prefix(component) == prefix.text
    assert parse_key(f"{PEFT_PREFIX}a.lora_A.weight") is not None


def test_what_can_be_asked_for_can_be_written() -> None:
    """`loractl convert --to` offers what has a table for writing."""
    assert set(CONVERTED) == set(written())


def test_the_orders_of_families_agree() -> None:
    """No two of them pass the same parts in another order, and all expressions are such."""
    numbers = positions()
    for family in FAMILIES.values():
        found = [numbers[head] for head in family.order]
        assert found == sorted(found)
        for mark in family.marks:
            re.compile(mark.name)


def test_marks_of_one_number_are_of_one_expression_or_of_one_family_each() -> None:
    """Where two families have one mark, nothing would decide between them."""
    seen = Counter((mark.seen, mark.order, mark.name, mark.rows, mark.columns, mark.width, mark.dims)
                   for family in FAMILIES.values() for mark in family.marks)  # fmt: skip
    assert max(seen.values()) == 1
