"""`loractl scan` as a user runs it: real processes, sockets, files and databases."""
