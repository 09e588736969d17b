"""How long one example takes depends on the machine; a slow one is no failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("layer", deadline=None)
settings.load_profile("layer")
