"""Two models side by side, a layer at a time: what they differ by, and that difference as a LoRA.

    pairs                   which layers belong together; modules: which a LoRA can adapt
    widening, difference    entries as floats, and sums over those of a layer, in blocks
    torchway                the same sums by torch
    rows, decompose         the difference as a matrix, and its leading singular values and vectors
    verdict                 what these say: a LoRA, rounding, or neither
    walk                    all layers on a few threads; records and journal keep what is finished
    place, session          the output folder, and what `compare` and `extract` have in common
    documents, texts        what is written of it; configs: settings; extracted: the LoRA

Memory is bounded by `walk`, not by the models: a few blocks a thread, and `walk.ROOM` for all decompositions.
"""
