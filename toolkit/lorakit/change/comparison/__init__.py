"""Two models side by side, a layer at a time: what they differ by, and that difference as a LoRA.

    pairs        which layers belong together
    difference   sums over the entries of a layer, in blocks
    decompose    the leading singular values and vectors of a difference
    verdict      what these say: a LoRA, rounding, or neither
    walk         all layers on a few threads; journal keeps what is finished
    place        the output folder; documents, texts and factors are what is written into it

Memory is bounded by `walk`, not by the models: a few blocks a thread, and `walk.ROOM` for all decompositions.
"""
