"""How answers are shown: tables, progress, a plan, a status, and JSON.

`forms` are the objects that `--json` prints and `exports` the files that `-o` names; the others are for people.
rich is imported for a terminal alone: by `status_screen`, `plan_screen`, `progress`, `scan`, and late by `tables`.
Nothing here asks the daemon: see `loractl.commands`.
"""
