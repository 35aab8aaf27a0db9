"""The fixtures of `serving`."""

from tests.daemon.control.serving import library, served

__all__ = ["library", "served"]
