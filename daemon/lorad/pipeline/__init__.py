"""Reading and digesting: loader processes, one hasher process, and the shared memory between them.

The core process owns the slabs and hands them out; loaders fill them, the hasher digests what lies in them.
Here is known how to read, never why: what to ask for is `lorad.library`'s business.
"""
