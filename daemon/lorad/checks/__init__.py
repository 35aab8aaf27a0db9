"""Whether what lorad says is true (`audit`), and what is wrong with its machine (`doctor`).

`places` says what can be done to files in each watched folder, and `probing` asks a folder in a process of its
own. Nothing here mends what it finds, and nothing of a user's is changed.
"""
