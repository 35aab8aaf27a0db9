"""Identity hashes of watched files, computed in the background as files arrive (`[hashes] on_arrival`).

`backlog` reads from the catalogue which files have none, `process` has one hashed, `service` is the thread that
goes from file to file, and `turns` has it give way to everything else. The code that hashes is that of the job
`hashes`; the core writes what it found. docs/decisions/0016-hashes-on-arrival.md says why it is so.
"""
