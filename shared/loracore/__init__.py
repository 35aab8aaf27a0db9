"""What every other part of lorad speaks: tensor files, names, messages, jobs, paths, errors.

Nothing here imports the daemon, the client or the toolkit, and nothing here imports torch. numpy is loaded with
the first value that is computed, by `adapter` alone.
"""

from loracore import moved

__version__ = "0.1.0"

moved.install()
