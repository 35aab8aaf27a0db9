"""Where files lie on the disk, and what they take there together when some of them share blocks (reflink).

`extents` asks the kernel (FIEMAP), `looking` does so for files of the catalogue, `room` counts.
"""
