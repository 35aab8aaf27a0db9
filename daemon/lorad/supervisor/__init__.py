"""The main process around the core: systemd, signals, logs, metrics, and the children's well-being.

Nothing here decides about files: that is `lorad.library`. `notify`, `logs` and `metrics` stand alone and know
no other part of the daemon.
"""
