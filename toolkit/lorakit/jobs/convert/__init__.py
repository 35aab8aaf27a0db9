"""The job `convert`: the same ΔW under other names (SPEC section 8).

`arrangement` says which modules become which. What these consist of is said by `recasting` (and `joining`, where
some are cut or joined), in `tensors` that are read when they are written. `kronecker` is what PEFT wants to know
of LoHa and LoKr. `contents` puts a file together; `job` does it. The names are `loracore.names.conventions`',
reading a pipeline's adapters is in `lorakit.modules.parts`.
"""
