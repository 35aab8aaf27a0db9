"""The job `hashes`: all identity hashes of a file, in one read of it (SPEC section 6).

`job` says what is hashed, `lanes` lets several consumers see one read, `legacy` makes the header of kohya's own
hash. Digests of layers, which find duplicates, are the pipeline's and none of these.
"""
