"""How answers are shown: tables, progress, a plan, a status, and JSON.

`forms` are the objects that `--json` prints and `exports` the files that `-o` names; the others are for people.
rich is imported by `screen`, `plan_screen`, `progress` and `scan` alone, which are loaded for a terminal.
Nothing here asks the daemon: see `loractl.commands`.
"""
