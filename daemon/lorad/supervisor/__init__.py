"""The main process: one loop over the engine, with systemd, signals, logs, metrics and the status around it.

`loop` waits and hands on, `parts` makes, starts and stops all that works around it, `session` is the engine with
its catalogue, `intake` has what waits for the loop, `configuration` takes over another one. `announcer` says what
happens, and `status` how things are. `systemd`, `logs`, `metrics` and `waits` stand alone and know no other part
of the daemon. Nothing here decides about files: that is `lorad.library` and `lorad.dedupe`.
"""
