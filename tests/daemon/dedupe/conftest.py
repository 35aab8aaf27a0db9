"""The fixtures of `control.serving`: plans are asked for over the protocol, too."""

from tests.daemon.control.serving import library, served

__all__ = ["library", "served"]
