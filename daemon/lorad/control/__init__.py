"""The daemon's end of the control protocol (`loracore.control`): sockets, requests, queries, events.

It runs in threads of the core process beside the core's own. What only the core knows comes from it as a
ready status, or by a `Command` that the core carries out; everything else is answered here, so that no
answer waits for the core and the core waits for none. The client's end is `loractl`.
"""

from lorad.control.handlers import Command
from lorad.control.server import ControlServer

__all__ = ["Command", "ControlServer"]
