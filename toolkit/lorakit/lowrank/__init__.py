"""Low-rank algebra: the SVD of a product of factors, principal components, on numpy or CuPy.

It is given arrays and gives arrays: no file is read here, and nothing is known of modules or algorithms, which is
`lorakit.modules`' matter. Decompositions of what is read in pieces are in `lorakit.difference.decompose`.
"""
