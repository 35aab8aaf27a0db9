"""Writing results: whole or not at all, a layer at a time, saying how they were made.

What is written is decided in `lorakit.jobs`; nothing here knows what a LoRA is, but for `stamp`.
"""
