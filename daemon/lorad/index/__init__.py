"""What is known of the watched files, and what follows from news of them.

`engine` joins what knows nothing of each other: `names` and `records` (which names lead to which files),
`executor` (the state machine and its instructions), `reads` (what the pipeline is to read) and `commits` (what
the catalogue keeps). Nothing here knows of de-duplication: what it has hidden is told to `hiding`, and what is
new is asked of `held` and `view`.
"""
