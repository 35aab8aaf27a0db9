"""The job `hashes`: all identity hashes of a file, in one read of it (SPEC section 6).

How one read serves several hashes, and kohya's own hash, is `lorakit.filehash`'s. Digests of layers, which find
duplicates, are the pipeline's and none of these.
"""
