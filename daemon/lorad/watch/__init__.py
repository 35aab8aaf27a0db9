"""Which files there are: walking the folders that are looked after, and watching them for what changes.

The core talks to `watcher` (all roots), `settle` (names until they are done) and `scanner` (what a name is).
Below `watcher`: a root's `observer` and `emitter` are watchdog's with the gaps filled; `listener`, `tree` and
`inotify` are the emitter's ears, `place` and `mounts` its eyes. What is in the files is not known here.
"""
