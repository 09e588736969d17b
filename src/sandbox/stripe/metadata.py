"""How an update changes metadata (API reference, "Metadata")."""

from __future__ import annotations


def merged(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Metadata after an update: an empty value unsets its key, an empty string everything."""
    if new == {"": ""}:
        return {}
    return {key: value for key, value in {**old, **new}.items() if value}
