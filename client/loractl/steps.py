"""What a client's method is made of: what it asks, one request after the other, and what it returns. No I/O.

A method is written once, as a row of `loractl.session`. `Client` goes through its steps at once, and `AsyncClient`
where it is awaited. One that is `answered` asks once or several times; one that is `listed` asks page by page.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload

import msgspec

from loracore.control import Answer, Event, Request
from loractl.frames import A, expect

if TYPE_CHECKING:
    from loractl.aioclient import AsyncClient
    from loractl.client import Client

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E", bound=msgspec.Struct)


class Hear(NamedTuple):
    """Events of one type, and the function that is called with them until the answer comes."""

    kind: type[msgspec.Struct]
    heard: Callable[[Any], None]

    @property
    def topics(self) -> list[str]:
        return [str(self.kind.__struct_config__.tag)]

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.kind):
            self.heard(event)


def hears(kind: type[E], progress: Callable[[E], None] | None) -> Hear | None:
    return None if progress is None else Hear(kind, progress)


class Ask(NamedTuple):
    """A request for the client to send. `timeout` is in seconds, for its answer; None for no limit."""

    request: Request
    timeout: float | None
    hear: Hear | None = None


class Done(NamedTuple, Generic[T]):
    """What the method returns."""

    value: T


#: Gives what to ask, takes the answers, and returns what the method does.
Steps = Generator[Ask, Answer, R]


def advance(steps: Steps[R], answer: Answer | None = None) -> Ask | Done[R]:
    """What is to be asked next, given the answer to the last one."""
    try:
        return next(steps) if answer is None else steps.send(answer)
    except StopIteration as end:
        return Done(end.value)


def ask(request: Request, kind: type[A], timeout: float | None, hear: Hear | None = None) -> Steps[A]:
    """Raises RefusedError, and LoraError for another answer."""
    return expect((yield Ask(request, timeout, hear)), kind)


def next_page(request: Request, page: Answer) -> Request | None:
    """The request for the page after this one; None after the last."""
    cursor: str = getattr(page, "cursor", "")
    return msgspec.structs.replace(request, cursor=cursor) if cursor else None


def all_pages(request: Request, kind: type[A], timeout: float | None) -> Steps[list[A]]:
    pages: list[A] = []
    following: Request | None = request
    while following is not None:
        pages.append((yield from ask(following, kind, timeout)))
        following = next_page(following, pages[-1])
    return pages


class Whole(Generic[T]):
    """Joins what one page ends with to what the next page begins with, where that is one group or set."""

    def __init__(self, join: Callable[[T, T], T | None] | None) -> None:
        """`join` makes one item of two parts, and gives None where they are two items."""
        self._join = join
        self._last: list[T] = []

    def add(self, items: Iterable[T]) -> Iterator[T]:
        """The items that are known to be whole."""
        if self._join is None:
            yield from items
            return
        for item in items:
            joined = self._join(self._last[0], item) if self._last else None
            if joined is None:
                yield from self._last
            self._last = [item if joined is None else joined]

    def end(self) -> Iterator[T]:
        yield from self._last


class Listing(Generic[T]):
    """A list by page, the items of a page, and how those are joined that pages cut."""

    def __init__(
        self,
        request: Request,
        kind: type[A],
        items: Callable[[A], Iterable[T]],
        join: Callable[[T, T], T | None] | None = None,
    ) -> None:
        self.request = request
        self.kind: type[Any] = kind
        self.items: Callable[[Any], Iterable[T]] = items
        self.join = join


class Method(Generic[P, R]):
    """The type of a method by client. At runtime it is a plain function."""

    @overload
    def __get__(self, client: Client, owner: Any = None) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: Any = None) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __get__(self, client: None, owner: Any = None) -> Callable[..., Any]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any: ...


class ListMethod(Generic[P, T]):
    """The same for one that is iterated."""

    @overload
    def __get__(self, client: Client, owner: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: Any = None) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, client: None, owner: Any = None) -> Callable[..., Any]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any: ...


def answered(row: Callable[Concatenate[Any, P], Steps[R]]) -> Method[P, R]:
    """A method that returns when it is answered."""

    @wraps(row)
    def method(client: Any, *args: P.args, **options: P.kwargs) -> Any:
        return client._perform(row(client, *args, **options))

    return cast("Method[P, R]", method)


def listed(row: Callable[Concatenate[Any, P], Listing[T]]) -> ListMethod[P, T]:
    """A method that is iterated."""

    @wraps(row)
    def method(client: Any, *args: P.args, **options: P.kwargs) -> Any:
        return client._items(row(client, *args, **options))

    return cast("ListMethod[P, T]", method)
