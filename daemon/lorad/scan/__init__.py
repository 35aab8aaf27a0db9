"""One pass over folders and no more: what `loractl scan` starts, and what it says of that."""
