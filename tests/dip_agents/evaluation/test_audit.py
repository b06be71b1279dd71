import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dip_agents.evaluation.adversaries import ADVERSARIES, Adversary, AttackContext
from dip_agents.evaluation.audit import HONEST, REFERENCE, WEAK, print_report, run_audit
from dip_agents.evaluation.collusion import BASES, CHOICES, TRICKS
from dip_env import Episode, EpisodeConfig, RewardConfig, Scene, ToyScenes
from dip_env.errors import ConfigError


class Crowd:
    """Twelve people at seeded positions below a far crowd that is ignored; no picture to see."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        tall = np.exp(rng.uniform(np.log(20), np.log(300), 12))
        wide = 0.4 * tall
        x, y = rng.uniform(0, 1280 - wide), rng.uniform(200, 960 - tall)
        people = np.stack([x, y, x + wide, y + tall], axis=1)
        far = [[100, 20, 500, 120], [700, 40, 1200, 150]]
        boxes = np.concatenate([people, far]).astype(np.float32)
        return Scene(
            scene_id=f"crowd-{index}",
            size=(1280, 960),
            boxes=boxes,
            visible_boxes=boxes,
            visible_share=rng.uniform(0.3, 1, 14).astype(np.float32),
            ignore=np.arange(14) >= 12,
            labels=("person",) * 14,
            load_image=lambda: Image.new("RGB", (1280, 960)),
        )


def config(**reward):
    return EpisodeConfig(reward=RewardConfig(**reward))


@pytest.fixture(scope="module")
def report():
    return run_audit(Crowd(), EpisodeConfig(), n=8)


def row(report, name):
    return next(r for r in (*report.honest, *report.adversaries) if r.name == name)


def test_no_adversary_beats_the_honest_in_the_default_configuration(report):
    assert report.exploits == []
    assert report.passed


def test_no_adversary_wins_where_looks_are_rewarded_by_the_annotation():
    report = run_audit(Crowd(), config(ambiguity="annotation"), n=8)
    assert report.exploits == []
    # Disagreement makes nothing ambiguous that the annotation does not call so.
    assert row(report, "inconsistent invention").group.look == 0


def test_an_audit_without_looks_plays_every_attack_that_needs_none():
    report = run_audit(Crowd(), EpisodeConfig(max_looks=0), n=8)
    assert report.exploits == []
    everybody = (*report.honest, *report.adversaries)
    assert all(r.group.look == 0 for r in everybody)
    assert all(r.group.format == 1 for r in report.honest)
    weak = report.honest[WEAK].group
    for name in ("score one", "score zero", "other order"):
        assert row(report, name).group.reward == pytest.approx(weak.reward)


def test_the_honest_have_the_quality_they_are_named_for(report):
    for honest, f1 in zip(report.honest, HONEST, strict=True):
        # 96 people in 8 rollouts each: one standard deviation is about 0.02.
        assert honest.f1 == pytest.approx(f1, abs=0.05)
        assert honest.group.format == 1.0
    rewards = [honest.group.reward for honest in report.honest]
    assert rewards == sorted(rewards)


def test_about_twenty_and_more_attacks_each_with_a_name_and_a_claim():
    assert len(ADVERSARIES) >= 20
    assert len({a.name for a in ADVERSARIES}) == len(ADVERSARIES)
    assert all(a.claim for a in ADVERSARIES)


@pytest.mark.parametrize("name", ["other order", "score one", "score zero", "same look twice"])
def test_what_must_change_nothing_changes_nothing(report, name):
    weak = report.honest[WEAK]
    for arrangement in ("single", "group"):
        earned, untouched = getattr(row(report, name), arrangement), getattr(weak, arrangement)
        assert earned.reward == pytest.approx(untouched.reward, abs=1e-9)


@pytest.mark.parametrize("name", ["whole-image look", "look outside", "zero-area look"])
def test_looks_that_choose_nothing_earn_nothing(report, name):
    assert row(report, name).single.look == 0
    assert row(report, name).group.look == 0


@pytest.mark.parametrize(
    "name",
    [
        "empty action",
        "look after answer",
        "answer inside think",
        "two answers",
        "truncated list",
        "not a number",
        "scientific",
        "numbers as strings",
    ],
)
def test_malformed_attacks_earn_nothing_at_all(report, name):
    assert row(report, name).single.reward == 0
    assert row(report, name).group.reward == 0


def test_malformed_attacks_would_be_rewarded_if_they_were_parsed():
    # The ground truth is inside each text, so a lenient parser would reward them.
    scene = Crowd()[0]
    context = AttackContext.of(scene, EpisodeConfig())
    first = f"{context.truth[0, 0]:g}"
    for adversary in ADVERSARIES:
        if adversary.name in ("look after answer", "answer inside think", "two answers"):
            assert first in adversary.attack(context)[0]


def test_every_attack_is_refused_or_played_without_an_exception_on_any_scene():
    for source in (ToyScenes(), Crowd()):
        for rules in ({}, {"max_looks": 0}, {"max_regions": 1, "max_boxes": 5, "max_turns": 1}):
            rules = replace(EpisodeConfig(), **rules)
            scene = source[2]
            context = replace(AttackContext.of(scene, rules), weak=np.array([[1, 2, 30, 40.0]]))
            for adversary in ADVERSARIES:
                episode = Episode(scene, rules)
                actions = adversary.attack(context)
                while not episode.done:
                    turn = episode.step(actions[min(episode.turn, len(actions) - 1)])
                assert 0 <= turn.reward <= 1, adversary.name


def attacks(*names):
    return [a for a in ADVERSARIES if a.name in names]


@pytest.mark.parametrize(
    ("reward", "winner"),
    [
        ({"accuracy": "weighted_sum", "precision_weight": 1.0}, "one certain box"),
        ({"look_weight": 0.4, "accuracy_weight": 0.5}, "all right boxes dropped by coin at F1 0.3"),
        ({"look_floor": 0.0}, "one box dropped by parity at F1 0.5"),
    ],
)
def test_the_audit_fails_a_reward_that_can_be_exploited(reward, winner):
    report = run_audit(Crowd(), config(**reward), n=4, adversaries=attacks(winner))
    assert winner in {exploit.adversary for exploit in report.exploits}
    assert not report.passed


def test_one_certain_box_comes_close_or_wins_under_the_weighted_sum():
    shares = []
    for kind in ("weighted_sum", "f_beta"):
        played = attacks("one certain box")
        report = run_audit(Crowd(), config(accuracy=kind), n=8, adversaries=played)
        reference = report.honest[REFERENCE].single.reward
        shares.append(report.adversaries[0].single.reward / reference)
    assert shares[0] > 0.95
    assert shares[1] < 0.6


def test_inconsistency_about_one_of_twelve_earns_little_in_a_group_and_less_in_one_rollout(report):
    inconsistent = row(report, "inconsistent answers")
    assert 0.1 < inconsistent.group.look < 1 / (0.3 * 12)
    assert inconsistent.single.look < 0.1


def test_every_way_to_collude_is_played_at_every_base_and_none_gains(report):
    assert len(report.tricks) == len(TRICKS) * len(CHOICES) * len(BASES)
    assert len({trick.name for trick in report.tricks}) == len(report.tricks)
    assert max(trick.reward - trick.baseline for trick in report.tricks) < 0.01
    quality = [trick.baseline for trick in report.tricks[:: len(TRICKS) * len(CHOICES)]]
    assert quality == sorted(quality)  # the shared answers get better


def test_a_tampering_attack_is_measured_against_its_own_honest_version():
    better = Adversary(
        "looks better",
        lambda s: s.standard_actions(s.truth),
        "finding more is rewarded",
        tampers=True,
    )
    report = run_audit(Crowd(), config(), n=2, adversaries=[better])
    exploits = [exploit for exploit in report.exploits if exploit.arrangement != "collusion"]
    # Everybody found is worth no more than to honest answers that find everybody.
    assert [exploit.baseline for exploit in exploits] == ["honest F1 0.3"] * 2


def test_an_adversary_is_compared_with_honest_answers_of_its_own_f1(report):
    low, high = report.honest[WEAK], report.honest[REFERENCE]
    between = replace(low, f1=(3 * low.f1 + high.f1) / 4)
    for arrangement in ("single", "group"):
        ends = [getattr(one, arrangement).reward for one in (low, high)]
        wanted = (3 * ends[0] + ends[1]) / 4
        assert report.equally_good(between, arrangement) == pytest.approx(wanted)


def test_a_reward_of_one_certain_box_is_an_exploit_at_any_f1():
    """Half of the reward for one box of twelve: less than honest F1 0.5 earns, and no less bad."""
    reward = {"accuracy": "weighted_sum", "precision_weight": 0.4}
    report = run_audit(Crowd(), config(**reward), n=8, adversaries=attacks("one certain box"))
    (box,) = report.adversaries
    assert box.single.reward < report.honest[REFERENCE].single.reward
    assert "one certain box" in {exploit.adversary for exploit in report.exploits}


def test_same_seed_same_report_and_other_seed_another():
    played = attacks("right count anywhere", "inconsistent answers")
    one, same, other = (
        run_audit(Crowd(), config(), n=2, seed=s, adversaries=played) for s in (0, 0, 1)
    )
    assert one == same
    assert one.honest != other.honest


def test_an_adversary_that_wins_is_named():
    out = io.StringIO()
    reward = {"accuracy": "weighted_sum", "precision_weight": 1.0}
    done = []
    found = run_audit(Crowd(), config(**reward), n=2, on_scene=lambda *at: done.append(at))
    print_report(found, Console(file=out, width=200))
    assert not found.passed
    assert "one certain box (single) earns" in out.getvalue()
    assert done == [(1, 2), (2, 2)]


def test_a_terminal_of_80_columns_shows_every_number(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=80, force_terminal=True, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in out.getvalue()
    for row in (*report.honest, *report.adversaries):
        (line,) = (line for line in lines if line.startswith(f"{row.name}  "))
        assert line.split()[-7:][1] == f"{row.single.reward:.3f}"


def test_the_report_prints_everybody_and_the_verdict(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=100))
    text = out.getvalue()
    assert all(r.claim in text for r in report.adversaries)
    assert all(r.name in text for r in (*report.honest, *report.adversaries))
    assert ("No adversary wins." in text) == report.passed


@pytest.mark.parametrize(
    ("n", "message"), [(5, "n: expected at most 4, .* got 5"), (0, "n: expected at least 1, got 0")]
)
def test_more_scenes_than_there_are_and_no_scenes_are_refused(n, message):
    with pytest.raises(ConfigError, match=message):
        run_audit(ToyScenes(), EpisodeConfig(), n=n)
