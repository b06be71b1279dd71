"""Play adversaries against a reward and check that none earns more than an honest policy.

Every attack is played in two arrangements, since the look term reads the siblings: ``single``, one
adversary among honest rollouts, and ``group``, adversaries only. It is an exploit when it earns
noticeably more on average than honest answers of the same F1, or, for an attack that only tampers
with the episode of a weak honest policy, than that episode untouched. Groups that agree on an
answer and differ on purpose (``TRICKS``) must not earn noticeably more than without the trick.
No image is drawn: an action that looks and answers at once is scored on its regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table

from dip_agents.evaluation.adversaries import ADVERSARIES, Adversary, AttackContext, Boxes
from dip_agents.evaluation.collusion import BASES, TrickReward, play_tricks
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.rewards import Outcome, Score, score_group
from dip_env.scenes.base import Scene, SceneSource

GROUP_SIZE = 8
"""Rollouts of one scene."""
TABLE_WIDTH = 140
"""Characters that the printed table needs."""
ARRANGEMENTS = ("single", "group")
HONEST = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""F1 of the honest policies."""
WEAK, REFERENCE = HONEST.index(0.3), HONEST.index(0.5)
"""The one whose episodes are tampered with, and the one whose rollouts are the siblings."""
EQUAL_F1_SLACK = 0.05
"""What answers of the same F1 may earn more by chance."""
SLACK = 0.01
"""What tampering may gain by chance, such as an ignored box that happens to match a person."""


@dataclass(frozen=True)
class MeanReward:
    """What a policy earned on average over scenes (and rollouts).

    Args:
        reward: the weighted sum.
        format: unweighted format term.
        look: unweighted look term.
        accuracy: unweighted accuracy term.
    """

    reward: float
    format: float
    look: float
    accuracy: float


@dataclass(frozen=True)
class AuditRow:
    """One policy of the audit.

    Args:
        name: of the adversary, or ``honest F1 0.5`` and so on.
        single: as one rollout among siblings of the reference policy.
        group: as a whole group.
        f1: F1 at IoU .5, mean over the rollouts of the whole groups.
        claim: what must not be rewarded, empty for the honest policies.
        tampers: whether it is also compared with the weak honest policy.
    """

    name: str
    single: MeanReward
    group: MeanReward
    f1: float
    claim: str = ""
    tampers: bool = False


@dataclass(frozen=True)
class Exploit:
    """An adversary that earned more than an honest policy.

    Args:
        adversary: its name.
        arrangement: ``single``, ``group``, or ``collusion`` for a trick.
        reward: its mean reward.
        baseline: who earned less: an honest policy, or the same answers without the trick.
        baseline_reward: mean reward of those.
    """

    adversary: str
    arrangement: str
    reward: float
    baseline: str
    baseline_reward: float


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Args:
        honest: the honest policies, worst first.
        adversaries: the attacks in the order of ``ADVERSARIES``.
        tricks: of colluding groups, by trick, choice and base.
        scenes: how many scenes were played.
        config: the rules and the reward.
    """

    honest: tuple[AuditRow, ...]
    adversaries: tuple[AuditRow, ...]
    tricks: tuple[TrickReward, ...]
    scenes: int
    config: EpisodeConfig

    @property
    def exploits(self) -> list[Exploit]:
        """Every adversary that earned more than an honest policy, by arrangement and policy."""
        weak, found = self.honest[WEAK], []
        for row in self.adversaries:
            for arrangement in ARRANGEMENTS:
                earned = getattr(row, arrangement).reward
                baselines = [
                    (f"honest F1 {row.f1:.2f}", self.equally_good(row, arrangement), EQUAL_F1_SLACK)
                ]
                if row.tampers:
                    baselines.append((weak.name, getattr(weak, arrangement).reward, SLACK))
                found += [
                    Exploit(row.name, arrangement, earned, name, honest)
                    for name, honest, slack in baselines
                    if earned > honest + slack
                ]
        found += [
            Exploit(t.name, "collusion", t.reward, "the same answers without it", t.baseline)
            for t in self.tricks
            if t.reward > t.baseline + SLACK
        ]
        return found

    def equally_good(self, row: AuditRow, arrangement: str) -> float:
        """Return what honest answers of an adversary's F1 earn, between those that were played.

        Args:
            row: the adversary.
            arrangement: ``single`` or ``group``.
        """
        honest = sorted(self.honest, key=lambda one: one.f1)
        rewards = [getattr(one, arrangement).reward for one in honest]
        return float(np.interp(row.f1, [one.f1 for one in honest], rewards))

    @property
    def passed(self) -> bool:
        """True when there is no exploit."""
        return not self.exploits


def _play(scene: Scene, config: EpisodeConfig, actions: Sequence[str]) -> Outcome:
    """Play prepared actions, the last one again and again until the episode ends."""
    episode = Episode(scene, config)
    turn = 0
    while not episode.done:
        episode.advance(actions[min(turn, len(actions) - 1)])
        turn += 1
    return episode.outcome


class _Sums:
    """Running sums of one policy in one arrangement."""

    def __init__(self) -> None:
        self.terms: list[list[float]] = []
        self.f1s: list[float] = []

    def add(self, scores: Iterable[Score], config: EpisodeConfig) -> None:
        for score in scores:
            t, m = score.terms, score.matches
            self.terms.append([t.total(config.reward.weights), t.format, t.look, t.accuracy])
            wrong = len(m.unmatched_pred) + len(m.unmatched_truth)
            self.f1s.append(2 * len(m.pred) / max(2 * len(m.pred) + wrong, 1))

    @property
    def mean(self) -> MeanReward:
        reward, form, look, accuracy = np.mean(self.terms, axis=0).tolist()
        return MeanReward(reward, form, look, accuracy)

    @property
    def f1(self) -> float:
        return float(np.mean(self.f1s))


def run_audit(
    source: SceneSource,
    config: EpisodeConfig,
    n: int = 16,
    seed: int = 0,
    *,
    adversaries: Sequence[Adversary] = ADVERSARIES,
    on_scene: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Play every adversary and the honest policies on the same scenes.

    Args:
        source: where the scenes come from; the first n are used.
        config: the rules and the reward to be audited.
        n: number of scenes.
        seed: seed of all policies.
        adversaries: which attacks.
        on_scene: called with (scenes done, scenes in all) after each scene.

    Returns:
        The mean rewards of all policies.

    Raises:
        ConfigError: when n is not between 1 and the number of scenes.
    """
    if n < 1:
        raise ConfigError(f"n: expected at least 1, got {n}")
    if n > len(source):
        raise ConfigError(f"n: expected at most {len(source)}, the number of scenes, got {n}")
    honest = [_honest(source, config, f1) for f1 in HONEST]
    colluding = [(f1, _honest(source, config, f1)) for f1 in BASES]
    tricks: list[list[TrickReward]] = []
    names = [f"honest F1 {f1}" for f1 in HONEST] + [a.name for a in adversaries]
    single, group = ({name: _Sums() for name in names} for _ in range(2))
    for index in range(n):
        scene = source[index]
        played = _play_scene(scene, config, honest, adversaries, [seed, index])
        siblings = played[REFERENCE][: GROUP_SIZE - 1]
        for name, outcomes in zip(names, played, strict=True):
            group[name].add(score_group(outcomes, scene, config), config)
            # The last rollout of every policy, so that the reference policy is not its own sibling.
            scores = score_group([outcomes[-1], *siblings], scene, config)[:1]
            single[name].add(scores, config)
        tricks.append(_play_colluding(scene, config, colluding, [seed, index]))
        if on_scene is not None:
            on_scene(index + 1, n)
    claims = [("", False)] * len(HONEST) + [(a.claim, a.tampers) for a in adversaries]
    rows = tuple(
        AuditRow(name, single[name].mean, group[name].mean, group[name].f1, *claim)
        for name, claim in zip(names, claims, strict=True)
    )
    return AuditReport(rows[: len(HONEST)], rows[len(HONEST) :], _means(tricks), n, config)


def _honest(source: SceneSource, config: EpisodeConfig, f1: float) -> OraclePolicy:
    """Return an oracle that misses and invents as much as an F1 says."""
    mistakes = OracleConfig(miss_rate=1 - f1, misses="hard", false_positive_rate=1 - f1, decimals=2)
    return OraclePolicy(source, config, mistakes)


def _play_colluding(
    scene: Scene,
    config: EpisodeConfig,
    policies: Sequence[tuple[float, OraclePolicy]],
    seed: list[int],
) -> list[TrickReward]:
    """Return what the tricks earn on a scene, beside a shared answer of each policy."""
    context = AttackContext.of(scene, config)
    found = []
    for number, (f1, policy) in enumerate(policies):
        own = replace(context, rng=np.random.default_rng([*seed, number]))
        shared = policy.people(scene, context.view, own.rng)
        found += play_tricks(
            own, f1, shared, GROUP_SIZE, lambda actions: _play(scene, config, actions)
        )
    return found


def _means(scenes: Sequence[Sequence[TrickReward]]) -> tuple[TrickReward, ...]:
    """Average over scenes; all scenes hold the same tricks in the same order."""
    return tuple(
        replace(
            same[0],
            reward=float(np.mean([one.reward for one in same])),
            baseline=float(np.mean([one.baseline for one in same])),
        )
        for same in zip(*scenes, strict=True)
    )


def _play_scene(
    scene: Scene,
    config: EpisodeConfig,
    honest: Sequence[OraclePolicy],
    adversaries: Sequence[Adversary],
    seed: list[int],
) -> list[list[Outcome]]:
    """Return a group of outcomes for each honest policy, then for each adversary."""
    common = AttackContext.of(scene, config)
    played: list[list[Outcome]] = []
    weak: list[Boxes] = []
    known: dict[tuple[str, ...], Outcome] = {}  # many attacks are the same in every rollout
    for k in range(len(honest) + len(adversaries)):
        outcomes = []
        for member in range(GROUP_SIZE):
            rng = np.random.default_rng([*seed, member, k])
            if k < len(honest):
                boxes = honest[k].people(scene, common.view, rng)
                weak += [boxes] if k == WEAK else []
                actions: Sequence[str] = common.standard_actions(boxes)
            else:
                own = replace(common, rng=rng, weak=weak[member], shared_weak=weak[0])
                actions = adversaries[k - len(honest)].attack(own)
            key = tuple(actions)
            if key not in known:
                known[key] = _play(scene, config, actions)
            outcomes.append(known[key])
        played.append(outcomes)
    return played


def print_report(report: AuditReport, console: Console | None = None) -> None:
    """Print the mean rewards of all policies, exploits in red.

    A terminal that is too narrow for what must not be rewarded shows the numbers alone.

    Args:
        report: of ``run_audit``.
        console: where to, standard output by default.
    """
    console = console or Console()
    # A file or a pipe takes lines of any length; the claims would not fit into the default width.
    if not console.is_terminal and console.width < TABLE_WIDTH:
        console = Console(file=console.file, width=TABLE_WIDTH)
    narrow = console.width < TABLE_WIDTH
    exploiting = {exploit.adversary for exploit in report.exploits}
    table = Table(
        title=f"mean reward on {report.scenes} scenes, groups of {GROUP_SIZE}; "
        "single: among honest F1 0.5 siblings",
        title_justify="left",
        box=None if narrow else HEAVY_HEAD,
        pad_edge=not narrow,
    )
    table.add_column("policy", no_wrap=True)
    for name in ("F1", "single", "group", "format", "look single", "look group", "accuracy"):
        heading = name.replace(" ", "\n") if narrow else name
        table.add_column(heading, justify="right", no_wrap=True)
    if not narrow:
        table.add_column("what must not be rewarded")
    for row in (*report.honest, *report.adversaries):
        numbers = (
            row.f1,
            row.single.reward,
            row.group.reward,
            row.group.format,
            row.single.look,
            row.group.look,
            row.group.accuracy,
        )
        style = "red" if row.name in exploiting else "" if row.claim else "bold"
        claim = () if narrow else (row.claim,)
        table.add_row(row.name, *(f"{v:.3f}" for v in numbers), *claim, style=style)
        if row is report.honest[-1]:
            table.add_section()
    console.print(table)
    gain, name = max(
        (getattr(row, arrangement).reward - report.equally_good(row, arrangement), row.name)
        for row in report.adversaries
        for arrangement in ARRANGEMENTS
    )
    console.print(f"the best adversary earns {gain:+.3f} beside honest answers of its F1: {name}")
    best = max(report.tricks, key=lambda trick: trick.reward - trick.baseline)
    console.print(
        f"{len(report.tricks)} ways to collude; the best changes the reward of the same answers by "
        f"{best.reward - best.baseline:+.3f}: {best.name}"
    )
    for exploit in report.exploits:
        console.print(
            f"{exploit.adversary} ({exploit.arrangement}) earns {exploit.reward:.3f}, "
            f"more than {exploit.baseline} with {exploit.baseline_reward:.3f}",
            style="red",
        )
    if report.passed:
        console.print("No adversary wins.")
