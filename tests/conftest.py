"""How hypothesis works here: a slow example is no failure, and CI tries the same examples each time.

A dear habit of HTTP clients is broken of, which nothing here depends on: each reads all root certificates
when it is made, though none speaks TLS. And the thousands of collected tests are not looked through for
garbage again and again.
"""

from __future__ import annotations

import functools
import gc
import os
import ssl

from hypothesis import Phase, settings

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "mutation", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate], database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "here"))

ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]


def pytest_collection_finish() -> None:
    """What is there by now stays to the end."""
    gc.collect()
    gc.freeze()
