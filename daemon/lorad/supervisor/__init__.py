"""The main process: one loop over the engine, with systemd, signals, logs, metrics and the status around it.

`loop` waits and hands on, `session` is the engine with its catalogue, `status` says how things are. `systemd`,
`logs`, `metrics` and `waits` stand alone and know no other part of the daemon. Nothing here decides about files:
that is `lorad.library` and `lorad.dedupe`.
"""
