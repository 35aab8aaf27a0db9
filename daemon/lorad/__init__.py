"""The daemon: it watches folders, finds the files that hold the same weights, and acts on them by a policy.

Its packages are floors, each of which imports those below it alone: `[tool.importlinter]` in pyproject.toml has
their order. It imports `loracore` and nothing of the client or the toolkit: clients talk to it, and jobs are found
by entry points.
"""
