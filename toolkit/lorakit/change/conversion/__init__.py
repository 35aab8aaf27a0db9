"""`convert`: the same ΔW under other names.

`parts` reads what a pipeline's adapters are, `arrangement` says which modules become which (some are cut or
joined), `tensors` what they consist of then, `kronecker` what PEFT wants to know of LoHa and LoKr, `contents` puts
a file together, and `job` does it.
"""
