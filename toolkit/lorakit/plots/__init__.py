"""The job `plot`: pictures of what is in the weights. With `lorakit.jobs.report`, the one place for matplotlib.

`job` runs them; each of the others draws one kind; `drawing` has what they share, colours that are told apart by
colour-blind people among it. Numbers come from `lorakit.jobs.spectrum` and `.pca` and from `lorakit.statistics`.
"""
