"""De-duplication by policy (SPEC section 5).

`policy`, `keeping` and `plan` decide, and do no I/O; `catalogued` gives them the sets of the catalogue. Carrying
a plan out, undoing it and repairing what was cut short is the other half, which looks at every file again before
it touches one: nothing here is believed by it.
"""
