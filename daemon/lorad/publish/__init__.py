"""The JSON files of the state folder, as views of one generation of the catalogue.

Rendering runs in a process of its own with a read-only connection, so that nothing waits for it. `snapshot`
reads the catalogue, `model` keeps what the views show from one generation to the next, `pages` its encoded
text, `duplicates` and `lines` say what stands there, `views` puts the five files together and `replace` puts
them on the disk. Nothing here decides anything but which file of a set of duplicates is named as the kept one.
"""
