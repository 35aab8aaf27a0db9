"""The job `resize`: a LoRA of other ranks (SPEC section 8).

`ranks` has the rules by which a module gets its rank, `plan` applies them to a file, `layout` says which layers
come of it; `job` does it. The decompositions are `lorakit.lowrank`'s, the factors of each algorithm
`lorakit.modules`'.
"""
