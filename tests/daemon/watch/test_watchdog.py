"""What is taken from watchdog is what it was: these fail should a later version of it change that."""

from __future__ import annotations

import inspect
import os

from watchdog.events import FileModifiedEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver, EventEmitter
from watchdog.observers.inotify_c import InotifyConstants as In

from lorad.watch.events import EchoEvent, HealthEvent, RescanEvent
from lorad.watch.inotify import EVENTS, Instance
from tests.daemon.watch.conftest import write


def test_the_constants_are_the_kernels() -> None:
    """include/uapi/linux/inotify.h."""
    assert {name: getattr(In, name) for name in vars(In) if name.startswith("IN_")}.items() >= {
        "IN_MODIFY": 0x2,
        "IN_ATTRIB": 0x4,
        "IN_CLOSE_WRITE": 0x8,
        "IN_MOVED_FROM": 0x40,
        "IN_MOVED_TO": 0x80,
        "IN_CREATE": 0x100,
        "IN_DELETE": 0x200,
        "IN_DELETE_SELF": 0x400,
        "IN_MOVE_SELF": 0x800,
        "IN_UNMOUNT": 0x2000,
        "IN_Q_OVERFLOW": 0x4000,
        "IN_IGNORED": 0x8000,
        "IN_ONLYDIR": 0x1000000,
        "IN_DONT_FOLLOW": 0x2000000,
        "IN_EXCL_UNLINK": 0x4000000,
        "IN_ISDIR": 0x40000000,
    }.items()


def test_nobody_is_woken_by_reading() -> None:
    assert not EVENTS & (In.IN_OPEN | In.IN_ACCESS | In.IN_CLOSE_NOWRITE)


def test_an_observer_hands_options_to_an_emitter_and_events_of_any_kind_to_a_handler_in_order() -> None:
    told: list[object] = []

    class Emitter(EventEmitter):
        def __init__(self, *args: object, option: str, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            self.left = [
                FileModifiedEvent(b"/a\xff"),
                RescanEvent(b"/a", reason=option),
                HealthEvent(b"/a", health="h", reason="r"),
                EchoEvent(b"/a", number=1),
                EchoEvent(b"/a", number=2),
            ]

        def queue_events(self, timeout: float) -> None:
            if self.left:
                self.queue_event(self.left.pop(0))
            else:
                self.stopped_event.wait()

    class Handler(FileSystemEventHandler):
        def dispatch(self, event: object) -> None:
            told.append(event)
            if len(told) == 5:
                observer.stop()

    observer = BaseObserver(Emitter, option="given")
    observer.schedule(Handler(), "/proc/", recursive=True)
    observer.start()
    observer.join(5)
    assert [type(event).__name__ for event in told] == [
        "FileModifiedEvent",
        "RescanEvent",
        "HealthEvent",
        "EchoEvent",
        "EchoEvent",
    ]
    assert told[1] == RescanEvent(b"/a", reason="given")


def test_an_emitter_turns_until_it_is_stopped() -> None:
    assert "queue_events" in inspect.getsource(EventEmitter.run)
    assert "should_keep_running" in inspect.getsource(EventEmitter.run)


def test_an_instance_tells_of_any_name(root: bytes) -> None:
    instance = Instance()
    watch = instance.add(root)
    write(root + b"/\xff")
    events = instance.read()
    assert {(event.wd, event.name) for event in events} == {(watch, b"\xff")}
    assert any(event.has(In.IN_CLOSE_WRITE) for event in events)
    instance.remove(watch)
    assert [event.mask & In.IN_IGNORED for event in instance.read()] == [In.IN_IGNORED]
    assert instance.read() == []
    assert not os.get_inheritable(instance.fd)
    instance.close()
