"""Benchmarks: corpora with a known truth, `loractl scan` and its peers measured on them in one run.

`corpus` makes the files (by `recipes`, with the `truth` about them), `peers` runs the tools that people have,
`measure` takes seconds, memory and bytes read, `python -m bench` prints the tables. `demo` makes the small
library that `make run` shows, `picture` the README's picture of it. `house` measures the source itself. Nothing
here is imported by the product.
"""
