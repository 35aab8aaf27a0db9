"""The job `compare`: what two models differ by, layer by layer (SPEC section 8).

`job` goes through the layers and writes the reports, `texts` has those for people, `torch_engine` computes the
same sums by torch. The work on a layer is in `lorakit.difference`, which `extract` uses as well.
"""
