"""Base models: which files one consists of, and their layers, read a block at a time.

What is done with the layers is decided by the jobs, in `lorakit.jobs`.
"""
