"""What every other part of lorad speaks: tensor files, messages, paths, errors.

Nothing here imports the daemon, the client or the toolkit, and nothing here imports torch.
"""

from loracore import moved

__version__ = "0.1.0"

moved.install()
