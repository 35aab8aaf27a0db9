"""Builders of LoRA files: the one place where tests, benchmarks and the demo get their files from.

`architectures` gives names and shapes of real LoRAs, `weights` the bytes, `write` puts both into containers
with control over every byte, `real` makes files by the libraries that people use. All but `real` need the
standard library alone; torch and the like are imported by the functions that need them.
"""
