"""The job `hashes`: all identity hashes of a file, in one read of it (SPEC section 6)."""
