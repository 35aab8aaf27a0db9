"""Jobs: heavy commands, run by the daemon in a worker process or by the client in its own, with the same code.

Here are their parameters and results, typed, and the frame that both sides share. What they do is in `lorakit`,
found by the entry points of the group `lorad.jobs`, so that others can add their own.
"""
