"""Base models: which files one consists of, and their layers, read a block at a time.

`shards` finds and hashes the files of a Transformers or diffusers folder, `weights` reads the layers. What is done
with them is decided in `lorakit.difference` and `lorakit.jobs.bake`. LoRA files are read by `loracore.adapter`.
"""
