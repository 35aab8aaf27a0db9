"""Low-rank algebra: the SVD of a product of factors, principal components, on numpy or CuPy. It reads no file."""
