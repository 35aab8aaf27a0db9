"""`convert`: the same ΔW under other names.

`parts` reads what a pipeline's adapters are, and `arrangement` says which modules become which. What these consist
of is said by `recasting` (and `joining`, where some are cut or joined), in `tensors` that are read when they are
written. `kronecker` is what PEFT wants to know of LoHa and LoKr. `contents` puts a file together; `job` does it.
"""
