"""The job `report`: a finished comparison, read back as tables and drawn (SPEC section 8).

`reading` has the files that `compare` and `extract` wrote, `job` makes tables of them, `figures` pictures. Nothing
here reads a model.
"""
