"""What a file is and says of itself, by its header alone: what its metadata state, and what names and shapes show.

It brings no numpy: the daemon's loaders compute facts with each header that they read. Not here: the job
`metadata`, which reads small tensors too, and what is in the weights (`statistics`).
"""
