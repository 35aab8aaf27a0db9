"""Where files lie on the disk, and what they take there together when some of them share blocks (reflink).

`extents` asks the kernel (FIEMAP) and the mounts, and does all the I/O; `usage` counts, and does none. Which files
are looked at, and when, is decided in `lorad.index.backlog` and `lorad.dedupe.planner`.
"""
