"""The daemon's end of the control protocol (`loracore.control`): sockets, requests, queries, events.

It runs in threads of the core process beside the core's own. What only the core knows comes from it as a ready
status, or by a `Command` that the core carries out; everything else is answered here, so that no answer waits for
the core and the core waits for none. Nothing is imported here, as `lorad` needs `sockets` before its children run.
The client's end is `loractl`.
"""
