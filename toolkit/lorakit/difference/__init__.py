"""Two models side by side, a layer at a time: what they differ by, and that difference as a LoRA.

    pairs               which layers belong together, and which a LoRA can adapt
    widening, measure   entries as floats, and sums over those of a layer, in blocks
    rows, decompose     the difference as a matrix, and its leading singular values and vectors
    verdict             what these say: a LoRA, rounding, or neither
    walk                all layers on a few threads; journal keeps what is finished
    folder, session     the output folder, and what `compare` and `extract` have in common
    documents           what is written of it; configs: settings; extracted: the LoRA

Memory is bounded by `walk`, not by the models: a few blocks a thread, and `walk.ROOM` for all decompositions. The
jobs themselves are `lorakit.jobs.compare` and `lorakit.jobs.extract`; base models are read by `lorakit.models`.
"""
