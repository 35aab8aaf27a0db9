"""De-duplication by policy (SPEC section 5).

`policy`, `sets` and `plan` decide, and do no I/O; which file of a set is kept says `lorad.library.keepers`.
Carrying a plan out, undoing it and repairing what was cut short is the other half, which looks at every file again
before it touches one: nothing here is believed by it.
"""
