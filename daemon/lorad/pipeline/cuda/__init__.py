"""Digesting on an NVIDIA GPU: BLAKE3 as a kernel (blake3.cu), and what feeds it.

`plan` lays pieces out on the kernel's lanes, `device` is all that speaks with CuPy, `digester` takes slabs in
batches and keeps two of them under way, `opening` decides whether the GPU is to be used at all. Nothing here is
imported unless a GPU is asked for, and nothing outside knows CuPy.
"""
