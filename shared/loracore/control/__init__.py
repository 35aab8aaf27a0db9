"""The control protocol: what clients ask a running daemon, what it answers, and the events that it sends.

A request is one MessagePack frame on a DEALER socket, `Asked`; its answer one frame, `Answered`, with the same
`id`. Events are two frames on a SUB socket: the kind, to subscribe by, and `Told`. Paths are bytes on the wire.

Sizes: a request is at most `MAX_REQUEST` bytes, an answer about `PAGE_BYTES`: longer lists come in pages, and
`cursor` of one page asks for the next; an empty one ends the list. A group or set that does not fit goes on in
the next page under the same signature or kept file. Lists are sorted, and their pages are of one generation
while they are asked for within seconds. docs/protocol.md shows it to those who write clients.

A file holds a family of messages: requests, then their answers, then the two unions that have them all, which is
all that makes a message known. `envelope` joins the families. Import all of it from here.
"""

from __future__ import annotations

from loracore.control.dedupe import *
from loracore.control.edits import *
from loracore.control.envelope import *
from loracore.control.events import *
from loracore.control.frame import *
from loracore.control.health import *
from loracore.control.jobs import *
from loracore.control.library import *
from loracore.control.status import *
from loracore.control.tags import *
