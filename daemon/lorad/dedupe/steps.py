"""The steps of each protocol, in order. `Actor`'s `at` is called with each name right after that step.

A process that dies anywhere between two of them leaves names and content such that repair brings them to all
before or all after. Up to `removing` (for `quarantine`: up to `done`) that is before; after `removed` it is after.
Where a file has to be kept aside instead of removed, "aside noted" and "aside moved" come last; where a
file is given its name back, "taken back".
"""

from __future__ import annotations

_BEGIN = ("reached", "leased")
_COMPARED = (*_BEGIN, "compared")
_RECIPE = ("recipe written", "recipe rehearsed", "recipe noted")
_REPLACE = (
    "attributes rehearsed", "temp made", "checked", "exchanged", "folder synced", "removing", "removed",
    "removal synced", "done",
)  # fmt: skip
_SET_ASIDE = ("attributes rehearsed", "checked", "set aside")
_REMOVE = ("folder synced", "removing", "removed", "removal synced", "done")
_COPY = ("undoing", "temp made", "copied", "attributes set", "copy noted", "checked")

#: By action and level, files alone; those with sidecars have `SIDECAR` where it is said.
APPLY = {
    ("reflink", "file"): (*_BEGIN, "planned", "shared", "done"),
    ("hardlink", "file"): (*_COMPARED, "planned", *_REPLACE),
    ("symlink", "file"): (*_COMPARED, "planned", *_REPLACE),
    ("symlink", "tensors"): (*_COMPARED, "planned", *_RECIPE, *_REPLACE),
    # "sidecar moved", once for each, after "set aside" and "moved".
    ("delete", "file"): (*_COMPARED, "planned", *_SET_ASIDE, *_REMOVE),
    ("delete", "tensors"): (*_COMPARED, "planned", *_RECIPE, *_SET_ASIDE, *_REMOVE),
    ("quarantine", "file"): (*_COMPARED, "planned", "place made", "checked", "moved", "folders synced", "done"),
    ("quarantine", "tensors"): (*_COMPARED, "planned", "place made", "checked", "moved", "folders synced", "done"),
}
#: By action. "sidecar returned", once for each, comes before "undone". A link that somebody removed is undone as
#: `delete` is.
UNDO = {
    "reflink": ("undoing", "unshared", "undone", "cleaned"),
    "hardlink": (*_COPY, "exchanged", "folder synced", "removed", "removal synced", "undone", "cleaned"),
    "symlink": (*_COPY, "exchanged", "folder synced", "removed", "removal synced", "undone", "cleaned"),
    "delete": (*_COPY, "renamed", "folder synced", "undone", "cleaned"),
    "quarantine": ("undoing", "verified", "renamed", "undone", "cleaned"),
}
