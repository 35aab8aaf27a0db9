"""The words of a policy of de-duplication, as `[dedupe]`, requests and `loractl` have them (SPEC section 5).

They are apart from `loracore.settings`, as `loractl --help` has no need of the rest.
"""

from __future__ import annotations

#: What may be done with a file; those for which two files need the same bytes, and not the same layers alone.
ACTIONS = ("report", "reflink", "hardlink", "symlink", "quarantine", "delete")
FOR_EQUAL_BYTES = ("reflink", "hardlink")
#: Levels of sameness at which it may be done.
LEVELS = ("file", "tensors")
#: Rules that say which file of a set is kept. The prefix names a folder: `path-prefix:/srv/models/best`.
KEEP_RULES = ("final-name", "most-metadata", "oldest", "newest", "shortest-path")
PATH_PREFIX = "path-prefix:"
#: What becomes of the files that belong to one that goes.
SIDECARS = ("keep", "move")
