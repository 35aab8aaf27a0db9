"""De-duplication by policy (SPEC section 5): what is to be done to duplicates, when, and what came of it.

`policy`, `sets` and `plan` decide and do no I/O; which file of a set is kept is decided in
`lorad.library.keepers`. `newcomers`, `returns` and `decisions` say what is due in a running daemon, `planner`
answers clients, `service` and `process` have it carried out by `action`, which looks at every file again before
it touches one. What is a duplicate is found out elsewhere, in `lorad.library`.
"""
