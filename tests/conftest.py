"""What holds for all tests: no deadline is asserted, machines differ."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("lorad", deadline=None)
settings.load_profile("lorad")
