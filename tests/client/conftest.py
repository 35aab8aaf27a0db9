"""A server to talk to."""

from tests.daemon.control.serving import library, served

__all__ = ["library", "served"]
