"""The JSON files of the state folder, as views of one generation of the catalogue.

Rendering runs in a process of its own with a read-only connection, so that nothing waits for it. `model` keeps
what the views show from one generation to the next, `pages` its encoded text, `duplicates` says what stands in
that view, `render` puts the five files together and `publisher` puts them on the disk. Nothing here decides
anything: which file of a set is kept is decided in `lorad.library.keepers`, by the terms that the generation has.
"""
