"""Writing results: whole or not at all, a layer at a time, saying how they were made.

`draft` and `folder` are what has no name until it is whole; `safetensors`, `checkpoint`, `peftfolder` and
`edited` the forms; `containers` and `destination` choose one by its name; `rounding` brings values to a dtype.
What is written is decided in `lorakit.jobs` and `lorakit.difference`.
"""
