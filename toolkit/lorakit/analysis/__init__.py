"""The jobs that tell what is in a file: importance, spectrum, pca.

`survey` goes through a file's modules on a few threads; the others say what is done with each. The numbers
themselves are `lorakit.statistics`' matter, pictures are `lorakit.plots`'.
"""
