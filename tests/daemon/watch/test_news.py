"""News wait in a bounded space, and none of them is lost by that."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from lorad.watch.mounts import is_below
from lorad.watch.news import Dirty, HealthChanged, Inbox, Rescan, Synced

ROOTS = (b"/a", b"/b", b"/a/sub")


def test_what_happens_to_a_name_again_and_again_is_told_once_with_the_last_word() -> None:
    inbox = Inbox(lambda: None)
    for closed in (False, True, False, True):
        inbox.dirty(b"/a/x", closed)
    inbox.dirty(b"/a/y", False)
    assert inbox.take() == [Dirty(b"/a/x", True), Dirty(b"/a/y", False)]
    assert inbox.take() == []


def test_the_core_is_woken_once_for_news_that_it_takes_together() -> None:
    woken: list[int] = []
    inbox = Inbox(lambda: woken.append(threading.get_ident()))
    inbox.dirty(b"/a/x", True)
    inbox.rescan(b"/a", "because")
    assert len(woken) == 1
    inbox.take()
    inbox.synced(1)
    assert len(woken) == 2


def test_an_answer_comes_after_all_that_it_is_about() -> None:
    inbox = Inbox(lambda: None)
    inbox.synced(7)
    inbox.dirty(b"/a/x", True)
    inbox.rescan(b"/a", "because")
    inbox.health(b"/a", "degraded", "")
    assert [type(item) for item in inbox.take()] == [HealthChanged, Rescan, Dirty, Synced]


def test_folders_below_one_that_is_looked_through_are_not_told_as_well() -> None:
    inbox = Inbox(lambda: None)
    for folder in (b"/a/b", b"/a/b/c", b"/a/bc"):
        inbox.rescan(folder, "because")
    assert [item[0] for item in inbox.take()] == [b"/a/b", b"/a/bc"]


def test_that_a_folder_came_into_view_is_kept_whatever_else_is_said_of_it() -> None:
    inbox = Inbox(lambda: None, folders=3)
    inbox.set_roots((b"/a",))
    inbox.rescan(b"/a/b", "mounted", view=True)
    inbox.rescan(b"/a/b", "changed")
    inbox.rescan(b"/a/b/c", "made readable", view=True)
    assert inbox.take() == [Rescan(b"/a/b", "mounted", True)]
    inbox.rescan(b"/a/b", "changed")
    inbox.rescan(b"/a/b/c", "made readable", view=True)
    assert Rescan(b"/a/b/c", "made readable", True) in inbox.take()
    inbox.rescan(b"/a", "there again", view=True)
    inbox.rescan(b"/a", "it is time")
    assert inbox.take() == [Rescan(b"/a", "it is time", True)]
    for number in range(4):
        inbox.rescan(b"/a/%d" % number, "because", view=number == 3)
    (told,) = inbox.take()
    assert told == Rescan(b"/a", told.reason, True)


def test_nothing_waits_of_a_root_that_went_missing_but_of_one_inside_of_it() -> None:
    """A disk that is unmounted is not told as deletions."""
    inbox = Inbox(lambda: None)
    inbox.set_roots(ROOTS)
    for path in (b"/a/x", b"/b/x", b"/a/sub/x"):
        inbox.dirty(path, True)
        inbox.rescan(path + b".d", "because")
    inbox.health(b"/a", "missing", "unmounted")
    assert inbox.take() == [
        HealthChanged(b"/a", "missing", "unmounted"),
        Rescan(b"/b/x.d", "because"),
        Rescan(b"/a/sub/x.d", "because"),
        Dirty(b"/b/x", True),
        Dirty(b"/a/sub/x", True),
    ]


def test_a_root_that_is_missing_is_not_looked_through_when_there_was_too_much_to_say() -> None:
    inbox = Inbox(lambda: None, names=2)
    inbox.set_roots((b"/a", b"/b"))
    inbox.health(b"/a", "missing", "")
    inbox.take()
    for name in (b"/b/1", b"/b/2", b"/b/3"):
        inbox.dirty(name, True)
    assert [item[0] for item in inbox.take()] == [b"/b"]


def test_a_root_that_is_watched_no_more_is_spoken_of_no_more() -> None:
    inbox = Inbox(lambda: None)
    inbox.set_roots((b"/a", b"/b"))
    inbox.dirty(b"/a/x", True)
    inbox.health(b"/a", "degraded", "")
    inbox.set_roots((b"/b",))
    assert inbox.take() == []


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.lists(st.sampled_from([b"p", b"q", b"r"]), min_size=1, max_size=3), st.booleans()
        )
    )
)
def test_whatever_was_said_is_told_by_name_or_by_folder_in_bounded_space(
    said: list[tuple[bool, list[bytes], bool]],
) -> None:
    inbox = Inbox(lambda: None, names=4, folders=3)
    inbox.set_roots((b"/a",))
    for is_folder, parts, closed in said:
        path = b"/".join([b"/a", *parts])
        if is_folder:
            inbox.rescan(path, "because")
        else:
            inbox.dirty(path, closed)
    told = inbox.take()
    folders = [item.folder for item in told if isinstance(item, Rescan)]
    names = [item.path for item in told if isinstance(item, Dirty)]
    assert len(names) <= 4
    assert len(folders) <= 4
    for is_folder, parts, _ in said:
        path = b"/".join([b"/a", *parts])
        assert any(is_below(path, folder) for folder in folders) or (not is_folder and path in names)
