"""A looking report as Markdown; reads its JSON, so that saved reports can be shown again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def looking_markdown(report: Mapping[str, Any]) -> str:
    """Return a report as Markdown tables.

    Args:
        report: what ``LookingReport.to_json`` returns, or the same read from a file.

    Returns:
        Tables of the arms, of gain and harm, of the look budget, and of where looks land.
    """
    raise NotImplementedError
