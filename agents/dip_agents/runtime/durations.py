"""Times as people read them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Return a time as ``45 s``, ``3 min 20 s`` or ``2 h 5 min``.

    Args:
        seconds: at least 0.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
