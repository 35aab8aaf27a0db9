"""Which files there are: walking the folders that are looked after, and watching them for what changes.

The core talks to `watcher` (all roots), `settle` (names until they are done) and `scanner` (what a name is).
`watcher` has a thread for each `root`, which is watchdog's with the gaps filled, and knows by `echoes` whether it
lives. The thread knows by `root_state` whether the root is there (`place`, `mounts`), and by `coverage` how it is
watched (`inotify_events`, `tree`, `inotify`). `storage` says on what files lie. What is in the files is not known
here.
"""
