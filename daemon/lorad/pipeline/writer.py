"""Where a loader puts the pieces that it reads: into slabs for the hasher, or through its own digest.

A slab goes to the hasher. When the hasher has all of them, the loader does not wait: it reads on into a
small memory of its own, which stays in its cache, and digests that itself, until a slab is free again. So
all cores digest when digesting is what takes the time.
"""

from __future__ import annotations

from collections.abc import Callable

from lorad.pipeline.arena import Arena
from lorad.pipeline.digesting import CpuBackend, Stream, digest_pieces
from lorad.pipeline.protocol import Filled

#: Bytes of a loader's own memory, which is to stay in the cache of its core.
OWN = 1 << 20
_NOTHING = memoryview(b"")


class PieceWriter:
    """Takes pieces, one after the other. `take_slab(wait)` gives a free slab; None if it need not wait for one.

    `stepped` hears of each slab: signs that the work goes on.
    """

    def __init__(
        self,
        arena: Arena,
        send: Callable[[Filled], None],
        take_slab: Callable[[bool], int | None],
        stepped: Callable[[], None] = lambda: None,
        own: int = OWN,
    ) -> None:
        self._arena = arena
        self._send = send
        self._take_slab = take_slab
        self._stepped = stepped
        self._backend = CpuBackend(threads=1)
        self._own = memoryview(bytearray(own))
        self._slab: int | None = None
        self._view = _NOTHING
        self._used = 0
        self._segments: list[int] = []
        self._continued = False
        self._open = False
        #: Of a piece that we digest ourselves and that is not complete.
        self._stream: Stream | None = None
        #: Our own digests since the last slab.
        self._digests = bytearray()
        self.task = 0
        #: Pieces that ended so far, in all tasks.
        self.ended = 0

    def space(self, wanted: int = 1) -> memoryview:
        """Memory to write to next, at least one byte of it.

        Where what is left of the present one has no room for `wanted` bytes, it is another: a piece that
        does not cross from one into the next can be digested by whoever has time.
        """
        left = len(self._view) - self._used
        if not left or (self._used and wanted > left):
            self._turn()
        return self._view[self._used :]

    def wrote(self, count: int, *, ends: bool) -> None:
        """`count` bytes were written for the current piece, which ends with them or goes on."""
        if not self._view:
            # A piece of no bytes needs memory too, since that is what carries it to the hasher.
            self._turn()
        self._used += count
        if self._open and self._segments:
            self._segments[-1] += count
        else:
            self._segments.append(count)
        self._open = not ends
        self.ended += ends

    def end(self) -> bytes:
        """The task's last piece was written; our own digests since its last slab."""
        self._flush()
        self._continued = self._open = False
        digests = bytes(self._digests)
        self._digests.clear()
        return digests

    def _turn(self) -> None:
        """Hand on what was written, and take other memory."""
        self._flush()
        self._stepped()
        if self._stream is None:
            # A piece that the hasher began has to be ended by it.
            self._slab = self._take_slab(self._open)
        self._view = self._own if self._slab is None else self._arena.slab(self._slab)

    def _flush(self) -> None:
        if self._slab is not None:
            digests = bytes(self._digests)
            self._send(Filled(self.task, self._slab, self._segments, self._continued, self._open, digests))
            self._digests.clear()
            self._continued = self._open
        elif self._segments:
            digests, self._stream = digest_pieces(
                self._backend, self._own, self._segments, self._stream, goes_on=self._open
            )
            self._digests += digests
        self._slab, self._view, self._used, self._segments = None, _NOTHING, 0, []
