"""What is known of the watched files, and what follows from news of them.

It joins library, pipeline and catalogue, publishes facts, and knows nothing of de-duplication.
"""
