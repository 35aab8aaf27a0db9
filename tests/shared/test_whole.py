"""A file is there whole or not at all, and an error names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loracore.errors import UsageError
from loracore.whole import check_place, write_whole


def test_a_file_is_replaced_and_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    """A temporary file is made readable for its owner alone; this one is as the umask says."""
    path = tmp_path / "x"
    path.write_bytes(b"before")
    before = os.umask(0o027)
    try:
        write_whole(path, b"after")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"after"
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_error_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    """Not the temporary file, of which its reader has never heard."""
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "x", tmp_path / "folder"):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - which one differs by place
            write_whole(path, b"data")
        assert raised.value.filename == str(path)
        assert raised.value.filename2 is None
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_place_is_checked_before_there_is_anything_to_write(tmp_path: Path) -> None:
    """The file is named, and what is to be done."""
    check_place(str(tmp_path / "x"))
    check_place("in-the-current-folder")
    for name, word in (("none/x", "make it first"), (".", "give a file's name")):
        with pytest.raises(UsageError, match=word):
            check_place(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_others_is_seen_beforehand(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="you may not write"):
        check_place(str(tmp_path / "x"))
