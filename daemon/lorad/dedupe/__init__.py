"""De-duplication by policy (SPEC section 5): what is to be done to duplicates, when, and what came of it.

`policy`, `sets` and `plan` say what becomes of duplicates, and do no I/O; `planner` makes them of the catalogue
and the disks, and `refusals` takes out what would fail. Which file of a set is kept says
`lorad.library.keepers`. `newcomers`, `missed`, `freeing` and `symlinks` decide what is done by itself, for the
core. `service` has that and what clients ask for done, by `apply`, `giving_back` and `freeing` in the thread of
`dispatch`; `process` carries it out, and `outcomes` puts what came of it into the engine. What is done to
files, and undone, lies in `action`, which looks at every file again before it touches one: nothing here is
believed by it.
"""
