"""Which files there are: walking the folders that are looked after, and watching them for what changes.

The core talks to `watcher` (all roots), `settle` (names until they are done) and `scanner` (what a name is). Below
`watcher` stands a `root` with its `emitter`, which are watchdog's with the gaps filled: it hears by `listener`,
`tree` and `inotify`, and sees by `place`, `mounts` and `storage`. What is in the files is not known here.
"""
