"""Files are put in place whole, and none that was edited is overwritten or removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loracore.errors import LoraError, UsageError
from loractl.service import place
from loractl.service.files import File
from loractl.service.machine import Owner


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A unit, a drop-in and a configuration in a folder of our own."""
    unit, config = tmp_path / "system" / "lorad.service", tmp_path / "lorad" / "lorad.toml"
    act = tmp_path / "system" / "lorad.service.d" / "act.conf"
    for name, path in (
        ("UNIT", unit),
        ("ACT", act),
        ("GPU", act.with_name("gpu.conf")),
        ("SYSTEM_CONFIG", config),
    ):
        monkeypatch.setattr(place, name, str(path))
    monkeypatch.setattr(place, "PATHS", (str(unit), str(act), str(config)))
    return tmp_path


def given(roots: str = "", *, act: bool = True) -> list[File]:
    found = [File(place.UNIT, "[Unit]\n", "is the service")]
    found += [File(place.ACT, "[Service]\n", "lets it act")] if act else []
    return [*found, File(place.SYSTEM_CONFIG, f"[watch]\nroots = [{roots}]\n", "is the configuration")]


def put(files: list[File]) -> list[str]:
    """Put them in place; what was done with each."""
    steps = place.putting(files)
    place.take(steps)
    return [step.do for step in steps]


def test_what_was_put_there_is_kept_replaced_and_removed(etc: Path) -> None:
    """Again is nothing to do; what is new is taken over; a drop-in that is not needed goes with its folder."""
    assert put(given()) == ["write", "write", "write"]
    assert Path(place.UNIT).stat().st_mode & 0o777 == 0o644
    assert put(given()) == ["keep", "keep", "keep"]
    assert put(given('"/srv"', act=False)) == ["keep", "remove", "replace"]
    assert 'roots = ["/srv"]' in Path(place.SYSTEM_CONFIG).read_text()
    assert not Path(place.ACT).parent.exists()
    place.take(place.removing())
    assert [path for path in etc.rglob("*") if path.is_file()] == []
    assert place.removing() == []


@pytest.mark.parametrize("change", ["more", "less", "mark", "bytes", "link", "pipe"])
def test_what_was_edited_is_refused_by_name(etc: Path, change: str) -> None:
    """Whatever was done to a file, it stays, at uninstalling too; nothing else is written then."""
    put(given())
    unit = Path(place.UNIT)
    text = unit.read_text()
    match change:
        case "more":
            unit.write_text(f"{text}# mine\n")
        case "less":
            unit.write_text(text.splitlines(keepends=True)[0])
        case "mark":
            unit.write_text(text.split("\n", 1)[1])
        case "bytes":
            unit.write_bytes(b"\xff" + text.encode())
        case "link":
            unit.unlink()
            unit.symlink_to(os.devnull)  # systemctl mask
        case "pipe":
            unit.unlink()
            os.mkfifo(unit)
    with pytest.raises(UsageError, match=r"lorad\.service: was edited.*systemctl edit"):
        place.putting(given('"/srv"'))
    steps = place.removing()
    assert [step.do for step in steps] == ["leave", "remove", "remove"]
    place.take(steps)
    assert [path for path in etc.rglob("*") if not path.is_dir()] == [unit]


def test_an_edited_configuration_stays_and_is_followed(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folders are those of the service; other ones by --watch are refused, with what to do instead."""
    put(given())
    first, second = etc / "first", etc / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.setattr(place.machine, "_HIDDEN", ())
    monkeypatch.setattr(place.machine, "owner", lambda _: Owner("alice", "alice"))
    config = Path(place.SYSTEM_CONFIG)
    config.write_text(f'[watch]\nroots = ["{first}/"]\n[dedupe]\naction = "hardlink"\n')
    assert place.setup([], None, None).folders == (str(first),)
    assert place.setup([str(first)], None, None).owner == Owner("alice", "alice"), "act as it was"
    assert place.setup([str(first)], False, None).owner is None
    with pytest.raises(UsageError, match=r"lorad\.toml: was edited.*leave --watch out"):
        place.setup([str(second)], None, None)
    assert put(given()) == ["keep", "keep", "leave"]
    assert "hardlink" in config.read_text()


def test_act_needs_folders(etc: Path) -> None:
    """Without one there is no owner."""
    with pytest.raises(UsageError, match="--watch DIR"):
        place.setup([], True, None)


def test_without_systemd_nothing_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line that says what else there is."""
    monkeypatch.setattr(place, "_BOOTED", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="loractl service print"):
        place.need_systemd()


def test_a_command_that_fails_says_why() -> None:
    """In one line: what was run, and what it said."""
    place.run(["true"])
    with pytest.raises(LoraError, match=r"^sh -c .* failed: one; two"):
        place.run(["sh", "-c", "echo one >&2; echo two >&2; exit 1"])
    with pytest.raises(UsageError, match="no-such-program: not installed"):
        place.run(["no-such-program"])
