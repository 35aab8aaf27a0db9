"""Pictures of what is in the weights. The one place where matplotlib is imported.

`job` runs them; each of the others draws one kind: `drawing` has what they share, colours that are told apart by
colour-blind people among it. Numbers come from `lorakit.jobs` and `lorakit.statistics`.
"""
