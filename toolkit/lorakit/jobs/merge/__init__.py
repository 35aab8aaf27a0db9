"""The job `merge`: several LoRAs as one (SPEC section 8).

`alignment` finds the modules that are the same, `weights` says how much of each is taken and to which rank,
`combine` sums by factors, `ties` entry by entry, `layout` says which layers the result has; `job` does it. Merging
into a base model is `lorakit.jobs.bake`.
"""
