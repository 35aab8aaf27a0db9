"""Reading and digesting: loader processes, one hasher process, and the shared memory between them.

The core process owns the slabs and hands them out; loaders fill them, the hasher digests what lies in them. Its
side is `pipeline`, with the books (`dispatch`), the processes (`launch`, `children`), when and how often one that
crashed or hangs is started again (`restarts`), and what the hasher digests with (`backend`).
Here is known how to read, never why: what to ask for is `lorad.library`'s business.
"""
