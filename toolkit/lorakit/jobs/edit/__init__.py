"""The job `edit`: other entries in a safetensors header, the data bit for bit as it was (SPEC section 7).

`header` reads a header with all its text and makes another one; `changes` says what its entries become, and
`stated_hashes` computes those of them that are hashes. `writing` puts a file with the new header in the place of
the old one, `hold` keeps others from writing meanwhile, `data` shares or copies what is behind the header.
`journal` keeps what undo needs, `settling` ends what was interrupted, `undo` takes edits back. `job` does it for
many files.

Files that are made anew are written by `lorakit.output`; checkpoints and PEFT folders are not edited.
"""
