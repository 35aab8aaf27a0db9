"""Whether what lorad says is true (`audit`), and what is wrong with its machine (`doctor`)."""
