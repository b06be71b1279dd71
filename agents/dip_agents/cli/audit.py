"""``dip audit``: play adversaries against a reward; exits with 1 when one of them wins."""

from __future__ import annotations

from dataclasses import dataclass, field

from dip_agents.cli.arguments import HEADINGS, SceneArgs, check_at_least
from dip_agents.cli.settings import Resolved
from dip_env.config import EpisodeConfig

EXAMPLES = ("dip audit", "dip audit --look-weight 1", "dip audit --accuracy weighted_sum --n 64")


@dataclass(frozen=True)
class Settings:
    """Play adversaries against a reward; exits with 1 when one of them beats honest answers."""

    source: SceneArgs = field(default_factory=lambda: SceneArgs(scenes="crowd"))
    rules: EpisodeConfig = field(default_factory=EpisodeConfig)
    n: int = 16
    """Number of scenes."""
    seed: int = 0
    """Seed of the adversaries."""

    HEADINGS = HEADINGS
    USUAL = (
        *("scenes", "n", "format_weight", "look_weight", "accuracy_weight", "accuracy", "beta"),
        *("iou", "graded_format", "ambiguity", "max_looks", "seed"),
    )

    @classmethod
    def defaults(cls, given: object) -> Settings:
        """Return the settings to start from; no model plays."""
        return cls()

    def __post_init__(self) -> None:
        """Check the number of scenes.

        Raises:
            ConfigError: for none.
        """
        check_at_least(self, n=1)


def run(resolved: Resolved[Settings]) -> int:
    """Audit a reward.

    Args:
        resolved: the settings.

    Returns:
        The exit code.
    """
    from dip_agents.cli.output import make_console, progress
    from dip_agents.evaluation.audit import print_report, run_audit

    args = resolved.settings
    source = args.source.open("val")
    with progress(make_console(errors=True), "playing adversaries") as on_scene:
        report = run_audit(source, args.rules, args.n, args.seed, on_scene=on_scene)
    print_report(report, make_console())
    return 0 if report.passed else 1
