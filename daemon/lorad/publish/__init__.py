"""The JSON files of the state folder, as views of one generation of the catalogue.

Rendering runs in a process of its own with a read-only connection, so that nothing waits for it. Nothing
here decides anything but which file of a set of duplicates is named as the kept one.
"""
