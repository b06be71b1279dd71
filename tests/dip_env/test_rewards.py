import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dip_env.actions import Answer, Look, Think
from dip_env.ambiguity import AmbiguousItems, prior_ambiguity
from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.errors import ConfigError
from dip_env.rewards import (
    LookStats,
    Outcome,
    RewardTerms,
    accuracy_reward,
    format_reward,
    look_floor,
    look_gains,
    look_reference,
    look_reward,
    look_statistics,
    score_group,
)
from dip_env.scenes.base import Scene

law = settings(deadline=None, max_examples=50)

THINK, LOOK, ANSWER = Think("hm"), Look([[0, 0, 9, 9]]), Answer([[0, 0, 9, 9]])
GOOD_TURNS = ((THINK, LOOK), (ANSWER,))
SIZE = (40, 30)
FAR = [[39.0, 29.0, 40.0, 30.0]]  # nothing that the strategies below draw reaches this corner

corner = st.integers(0, 12).map(float)
side = st.integers(1, 8)
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def box_lists(max_size=6):
    return st.lists(box, max_size=max_size).map(lambda b: np.array(b, float).reshape(-1, 4))


kinds = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["f_beta", "weighted_sum"]),
        "iou": st.sampled_from(["0.5", "0.7", "0.5:0.95"]),
        "beta": st.sampled_from([0.5, 1.0, 2.0]),
        "precision_weight": st.sampled_from([0.0, 0.3, 1.0]),
    }
)


def make_scene(truth, ignore=(), size=SIZE, visible_share=None):
    boxes = np.array([*truth, *ignore], dtype=np.float32).reshape(-1, 4)
    n = len(boxes)
    share = np.ones(n) if visible_share is None else np.array(visible_share)
    return Scene(
        scene_id="test",
        size=size,
        boxes=boxes,
        visible_boxes=boxes,
        visible_share=share.astype(np.float32),
        ignore=np.arange(n) >= len(truth),
        labels=("person",) * n,
        load_image=lambda: Image.new("RGB", size),
    )


def outcome(answer=(), looks=(), turns=GOOD_TURNS, answered=True):
    answer, looks = (np.array(b, float).reshape(-1, 4) for b in (answer, looks))
    return Outcome(answer, looks, turns, answered)


def looks_earned(answers, looks, scene, config=None):
    outcomes = [outcome(a, k) for a, k in zip(answers, looks, strict=True)]
    return [score.terms.look for score in score_group(outcomes, scene, config or EpisodeConfig())]


# -- format


@pytest.mark.parametrize(
    ("turns", "strict", "thirds"),
    [
        ([(THINK, LOOK, ANSWER)], 1, 3),
        ([(THINK, LOOK), (THINK, ANSWER)], 1, 3),
        ([(LOOK, THINK, LOOK, ANSWER)], 1, 3),
        ([(LOOK, THINK, ANSWER)], 0, 2),
        ([(THINK, ANSWER)], 0, 2),
        ([(LOOK, ANSWER)], 0, 2),
        ([(THINK, LOOK)], 0, 2),
        ([(THINK,)], 0, 1),
        ([(ANSWER,)], 0, 1),
        ([(Think(" \n\t"), LOOK, ANSWER)], 0, 2),
        ([(Think(""), LOOK), (THINK, ANSWER)], 0, 2),
        ([(THINK, LOOK), None, (ANSWER,)], 0, 0),
        ([(THINK, LOOK, ANSWER), (ANSWER,)], 0, 0),
        ([(THINK, LOOK, ANSWER), (THINK,)], 0, 0),
        ([None], 0, 0),
        ([], 0, 0),
        ([()], 0, 0),
    ],
)
def test_format_rewards_think_then_look_then_one_answer(turns, strict, thirds):
    assert format_reward(turns) == strict
    assert format_reward(turns, graded=True) == pytest.approx(thirds / 3)


@pytest.mark.parametrize(
    ("turns", "strict", "halves"),
    [
        ([(THINK, ANSWER)], 1, 2),
        ([(THINK,), (THINK, ANSWER)], 1, 2),
        ([(ANSWER,)], 0, 1),
        ([(THINK,)], 0, 1),
        ([(Think(" "), ANSWER)], 0, 1),
        ([None, (THINK, ANSWER)], 0, 0),
        ([(THINK, ANSWER), (THINK,)], 0, 0),
        ([], 0, 0),
    ],
)
def test_where_no_look_may_be_taken_format_rewards_think_then_answer(turns, strict, halves):
    assert format_reward(turns, may_look=False) == strict
    assert format_reward(turns, graded=True, may_look=False) == halves / 2


def test_a_single_pass_earns_everything_but_the_look():
    one = [0, 0, 10, 10]
    rules = EpisodeConfig(max_looks=0)
    single = outcome([one], turns=((THINK, ANSWER),))
    for outcomes in ([single], [single, outcome([], turns=((THINK, ANSWER),)), single]):
        scores = score_group(outcomes, make_scene([one]), rules)
        assert scores[0].terms == RewardTerms(format=1.0, look=0.0, accuracy=1.0)
        assert scores[0].terms.total(rules.reward.weights) == pytest.approx(0.9)
    # The same episode where a look was allowed has left one out.
    (asked,) = score_group([single], make_scene([one]), EpisodeConfig())
    assert asked.terms.format == 0


# -- accuracy


def test_accuracy_worked_by_hand():
    # One of two people found, one of three boxes right: P = 1/3, R = 1/2.
    truth = [[0, 0, 10, 10], [20, 0, 30, 10]]
    pred = [[0, 0, 10, 8], [12, 12, 20, 20], [0, 20, 5, 30]]
    assert accuracy_reward(pred, truth) == pytest.approx(2 * (1 / 6) / (5 / 6))
    # b = 2: 5 * (1/6) / (4/3 + 1/2) = 5/11.
    assert accuracy_reward(pred, truth, beta=2) == pytest.approx(5 / 11)
    weighted = accuracy_reward(pred, truth, kind="weighted_sum", precision_weight=0.25)
    assert weighted == pytest.approx(0.25 / 3 + 0.75 / 2)
    # IoU 0.8 counts at .5 to .8, seven thresholds of ten.
    assert accuracy_reward(pred, truth, iou="0.5:0.95") == pytest.approx(0.7 * 0.4)
    assert accuracy_reward(pred, truth, iou="0.8") == pytest.approx(0.4)
    assert accuracy_reward(pred, truth, iou="0.81") == 0.0
    # With the two wrong boxes on an ignore region P is 1: F1 = 2/3.
    ignore = [[10, 10, 20, 20], [0, 20, 10, 30]]
    assert accuracy_reward(pred, truth, ignore) == pytest.approx(2 / 3)


def test_an_empty_scene_wants_an_empty_answer():
    for kind in ("f_beta", "weighted_sum"):
        assert accuracy_reward([], [], kind=kind) == 1
        assert accuracy_reward([[0, 0, 5, 5]], [], kind=kind) == 0
        assert accuracy_reward([[0, 0, 5, 5]], [], [[0, 0, 9, 9]], kind=kind) == 1
        assert accuracy_reward([], [[0, 0, 5, 5]], kind=kind) == 0


def test_weighted_sum_rewards_one_certain_box_and_f_beta_does_not():
    truth = [[x, 0, x + 8, 8] for x in range(0, 400, 10)]
    sure = truth[:1]
    assert accuracy_reward(sure, truth, kind="weighted_sum") > 0.5
    assert accuracy_reward(sure, truth, kind="f_beta") < 0.05


@law
@given(box_lists(), box_lists(), box_lists(2), kinds)
def test_accuracy_is_a_share_and_the_truth_earns_all(pred, truth, ignore, how):
    assert 0 <= accuracy_reward(pred, truth, ignore, **how) <= 1
    truth = np.unique(truth, axis=0)
    assert accuracy_reward(truth, truth, ignore, **how) == pytest.approx(1)


@law
@given(box_lists(), box_lists(), box_lists(3), kinds, st.randoms(use_true_random=False))
def test_permuting_boxes_never_changes_accuracy(pred, truth, ignore, how, rng):
    shuffled = [
        np.array(rng.sample(b.tolist(), len(b))).reshape(-1, 4) for b in (pred, truth, ignore)
    ]
    before, after = accuracy_reward(pred, truth, ignore, **how), accuracy_reward(*shuffled, **how)
    assert after == pytest.approx(before, abs=1e-9)


@law
@given(box_lists().filter(len), box_lists(), box_lists(2), kinds, st.data())
def test_duplicating_a_box_never_raises_accuracy(pred, truth, ignore, how, data):
    copies = data.draw(st.lists(st.integers(0, len(pred) - 1), min_size=1, max_size=4))
    more = np.concatenate([pred, pred[copies]])
    before = accuracy_reward(pred, truth, ignore, **how)
    assert accuracy_reward(more, truth, ignore, **how) <= before + 1e-12


@law
@given(box_lists(), box_lists(), box_lists(2), kinds)
def test_a_far_false_positive_never_raises_accuracy(pred, truth, ignore, how):
    before = accuracy_reward(pred, truth, ignore, **how)
    after = accuracy_reward(np.concatenate([pred, FAR]), truth, ignore, **how)
    assert after <= before + 1e-12


# -- look


def test_the_look_term_worked_by_hand():
    # 100x100 scene; weights 1 and 0.5. The look holds all of the first box, a quarter of the
    # second, and takes 25 x 20 = 5 % of the scene: (1 + 0.125) / 1.5 - 0.05 = 0.7.
    items = AmbiguousItems(
        np.array([[0.0, 0, 10, 10], [20, 0, 40, 20], [90, 90, 99, 99]]), np.array([1.0, 0.5, 0.0])
    )
    assert look_reward(items, [[0, 0, 25, 20]], (100, 100)) == pytest.approx(0.7)
    # Said twice, or with a part outside the scene, it is the same look.
    twice = [[0, 0, 25, 20], [-5, -5, 25, 20], [0, 0, 25, 20]]
    assert look_reward(items, twice, (100, 100)) == pytest.approx(0.7)
    # At a position where nothing is ambiguous, what it covers is what it costs.
    assert look_reward(items, [[50, 50, 100, 100]], (100, 100)) == 0
    # Where three people would have to be ambiguous, half as many are: 0.7 / 2.
    assert look_reward(items, [[0, 0, 25, 20]], (100, 100), floor=3) == pytest.approx(0.35)


def test_what_looks_cover_worked_by_hand():
    # Two people and an invented box; the look holds the first and half of the second, 15 x 10.
    items = AmbiguousItems(
        np.array([[0.0, 0, 10, 10], [10, 0, 20, 10], [50, 50, 60, 60]]), np.array([1.0, 0.2, 0.8])
    )
    found = look_statistics(items, [[0, 0, 15, 10]], (100, 100), people=2)
    assert found == LookStats(
        ambiguous_people=1,
        invented=pytest.approx(0.4),
        covered=pytest.approx(1.1 / 2),
        area=pytest.approx(0.015),
    )
    assert look_statistics(items, [], (100, 100), people=2).covered == 0
    agreed = AmbiguousItems(items.boxes, np.zeros(3))
    assert look_statistics(agreed, [[0, 0, 9, 9]], (100, 100)).covered is None


def test_what_all_siblings_invent_is_not_ambiguous():
    rules = EpisodeConfig(reward=RewardConfig(invented_weight=1.0))
    outcomes = [outcome([[20, 20, 30, 30]], [[20, 20, 30, 30]])] * 4
    for score in score_group(outcomes, make_scene([[0, 0, 10, 10]]), rules):
        assert (score.terms.look, score.looks.invented, score.looks.covered) == (0.0, 0.0, None)


def test_a_floor_that_is_not_above_0_is_refused():
    items = AmbiguousItems(np.array([[0.0, 0, 10, 10]]), np.ones(1))
    with pytest.raises(ConfigError, match="floor: expected a number above 0, got 0"):
        look_reward(items, [[0, 0, 9, 9]], SIZE, floor=0)


def test_every_member_learns_what_it_could_have_looked_at():
    one, two = [0, 0, 10, 10], [20, 0, 30, 10]
    outcomes = [outcome([one], [two]), outcome([one, two]), outcome([one])]
    looks = [s.looks for s in score_group(outcomes, make_scene([one, two]), EpisodeConfig())]
    assert [found.ambiguous_people for found in looks] == [1, 0, 1]
    assert [found.covered for found in looks] == [1.0, None, 0.0]


@law
@given(box_lists(), st.data())
def test_looks_at_everything_nothing_or_nothing_ambiguous_earn_nothing(boxes, data):
    weights = np.array(
        data.draw(st.lists(st.floats(0, 1), min_size=len(boxes), max_size=len(boxes)))
    )
    items = AmbiguousItems(boxes, weights)
    assert look_reward(items, [[0, 0, *SIZE]], SIZE) == 0
    assert look_reward(items, [[-9, -9, 99, 99], [0, 0, 5, 5]], SIZE) == 0
    assert look_reward(items, [], SIZE) == 0
    assert look_reward(items, [[30, 25, 40, 30]], SIZE) == 0
    assert look_reward(AmbiguousItems(boxes, weights * 0), [[0, 0, 9, 9]], SIZE) == 0


@law
@given(box_lists(), box_lists(3), st.data())
def test_the_look_term_is_a_share(boxes, looks, data):
    weights = np.array(
        data.draw(st.lists(st.floats(0, 1), min_size=len(boxes), max_size=len(boxes)))
    )
    assert 0 <= look_reward(AmbiguousItems(boxes, weights), looks, SIZE) <= 1


def test_what_each_region_adds_worked_by_hand():
    # 100x100 scene, two people of weight 1; each region is 2 % of the scene and shows one of them:
    # 1/2 - .02, then 1 - .04. The third shows nobody, the fourth the first person again.
    items = AmbiguousItems(np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), np.ones(2))
    looks = [[0, 0, 20, 10], [50, 50, 60, 70], [90, 90, 100, 100], [0, 0, 10, 10]]
    assert look_gains(items, looks, (100, 100)) == pytest.approx([0.48, 0.48, -0.01, 0.0])
    assert look_gains(items, [], (100, 100)) == ()


@law
@given(box_lists(), box_lists(3), st.floats(1, 4))
def test_what_regions_add_is_the_look_term_in_any_order(boxes, looks, floor):
    items = AmbiguousItems(boxes, np.ones(len(boxes)))
    for order in (looks, looks[::-1]):
        gains = look_gains(items, order, SIZE, floor)
        assert len(gains) == len(order)
        assert sum(gains) == pytest.approx(look_reward(items, looks, SIZE, floor))


# -- groups

groups = st.lists(st.tuples(box_lists(), box_lists(3)), min_size=1, max_size=5)


def test_a_group_worked_by_hand():
    # Rollouts 1 and 2 disagree about person two only, and rollout 0 looks at her: 100 of 1200.
    one, two = [0, 0, 10, 10], [20, 0, 30, 10]
    scene = make_scene([one, two])
    outcomes = [outcome([one], [two]), outcome([one, two], [one]), outcome([one], [])]
    scores = score_group(outcomes, scene, EpisodeConfig())
    assert scores[0].terms == RewardTerms(1.0, pytest.approx(1 - 100 / 1200), pytest.approx(2 / 3))
    # To rollout 1, both siblings agree: nothing is ambiguous. Rollout 2 did not look.
    assert scores[1].terms == RewardTerms(1.0, 0.0, 1.0)
    assert scores[2].terms == RewardTerms(1.0, 0.0, pytest.approx(2 / 3))
    assert scores[1].matches.truth.tolist() == [0, 1]
    assert scores[2].matches.unmatched_truth.tolist() == [1]


@law
@given(groups, box_lists(), box_lists(2), kinds)
def test_every_term_of_every_rollout_is_a_share(group, truth, ignore, how):
    how = {("accuracy" if key == "kind" else key): value for key, value in how.items()}
    config = EpisodeConfig(reward=RewardConfig(**how))
    scores = score_group([outcome(*r) for r in group], make_scene(truth, ignore), config)
    assert len(scores) == len(group)
    for score in scores:
        assert all(0 <= value <= 1 for value in score.terms.as_dict().values())
        assert 0 <= score.terms.total(config.reward.weights) <= 1 + 1e-12


@law
@given(groups, box_lists(), box_lists(2), st.randoms(use_true_random=False))
def test_permuting_boxes_never_changes_a_score(group, truth, ignore, rng):
    def shuffle(boxes):
        return np.array(rng.sample(boxes.tolist(), len(boxes))).reshape(-1, 4)

    before = score_group([outcome(*r) for r in group], make_scene(truth, ignore), EpisodeConfig())
    after = score_group(
        [outcome(shuffle(a), shuffle(looks)) for a, looks in group],
        make_scene(shuffle(truth), shuffle(ignore)),
        EpisodeConfig(),
    )
    for one, other in zip(before, after, strict=True):
        assert one.terms.as_dict() == pytest.approx(other.terms.as_dict(), abs=1e-9)


@law
@given(box_lists(), box_lists(3), box_lists(), box_lists(2), st.integers(3, 8))
def test_a_group_of_identical_rollouts_earns_no_look(answer, looks, truth, ignore, size):
    scene = make_scene(truth, ignore)
    assert looks_earned([answer] * size, [looks] * size, scene) == [0.0] * size


@law
@given(
    st.lists(st.tuples(box_lists(), box_lists(3)), min_size=3, max_size=5),
    box_lists(),
    box_lists(),
    st.data(),
)
def test_an_own_answer_never_moves_the_own_look_term(group, truth, other, data):
    g = data.draw(st.integers(0, len(group) - 1))
    answers, looks = zip(*group, strict=True)
    changed = [*answers[:g], other, *answers[g + 1 :]]
    scene = make_scene(truth)
    # To the last bit.
    assert looks_earned(answers, looks, scene)[g] == looks_earned(changed, looks, scene)[g]


def test_a_siblings_answer_does_move_the_look_term():
    one = [0, 0, 10, 10]
    scene = make_scene([one])
    assert looks_earned([[], [], []], [[one], [], []], scene)[0] == 0
    assert looks_earned([[], [one], []], [[one], [], []], scene)[0] > 0.9


@pytest.mark.parametrize(("people", "floor"), [(1, 1), (3, 1), (10, 3), (40, 12)])
def test_the_floor_is_a_share_of_the_people_and_one_at_least(people, floor):
    assert look_floor(RewardConfig(look_floor=0.3), people) == pytest.approx(floor)


@law
@given(box_lists(), st.floats(0, 1), box_lists(3), st.floats(1, 9))
def test_a_look_earns_no_more_than_there_is_ambiguity(boxes, scale, looks, floor):
    """Scaled down to nothing, ambiguity takes the term to 0, continuously."""
    items = AmbiguousItems(boxes, np.full(len(boxes), scale))
    earned = look_reward(items, looks, SIZE, floor)
    whole = look_reward(AmbiguousItems(boxes, np.ones(len(boxes))), looks, SIZE, floor)
    assert 0 <= earned <= min(1.0, scale * len(boxes) / floor) + 1e-12
    assert scale * whole - 1e-12 <= earned <= whole + 1e-12


@law
@given(box_lists(), st.floats(0, 0.3), st.integers(3, 8))
def test_boxes_that_move_and_still_match_earn_nothing(truth, shift, size):
    """Every second rollout moves the right edge of each box by a share of its width."""
    truth = truth[:1]  # of several that overlap, one could match another
    moved = truth.copy()
    moved[:, 2] -= shift * (truth[:, 2] - truth[:, 0])
    answers = [moved if k % 2 else truth for k in range(size)]
    assert looks_earned(answers, [truth] * size, make_scene(truth)) == [0.0] * size


@law
@given(groups, box_lists(), st.integers(0, 4), st.integers(1, 5))
def test_boxes_that_nobody_needs_never_raise_a_look_term(group, truth, who, count):
    """The added boxes lie where nobody is."""
    answers, looks = (list(part) for part in zip(*group, strict=True))
    scene = make_scene(truth)
    before = looks_earned(answers, looks, scene)
    spare = np.array([[30.0 + k, 25.0, 35.0 + k, 30.0] for k in range(count)])
    answers[who % len(answers)] = np.concatenate([answers[who % len(answers)], spare])
    assert looks_earned(answers, looks, scene) == before


def test_whole_image_looks_and_no_looks_earn_nothing_in_a_group():
    one = [0, 0, 10, 10]
    answers = [[], [one], [], [one]]
    looks = [[[0, 0, *SIZE]], [], [[20, 15, 30, 25]], [one]]
    earned = looks_earned(answers, looks, make_scene([one]))
    # One of three siblings finds her: 4 * 1/3 * 2/3, times all of her less 100 of 1200 pixels.
    assert earned == [0, 0, 0, pytest.approx(8 / 9 * (1 - 100 / 1200))]


@pytest.mark.parametrize("size", [1, 2])
def test_a_group_too_small_to_disagree_uses_the_prior(size):
    truth = [[0, 0, 4, 2], [10, 0, 20, 20]]
    scene = make_scene(truth, visible_share=[1.0, 0.3])
    look = [[0, 0, 12, 10]]
    # The view of 40x30 at 448 is 448x320: heights of 2 and 20 scene pixels become 21.3 and 213.3.
    items = prior_ambiguity(truth, [1.0, 0.3], [2 * 320 / 30, 20 * 320 / 30])
    expected = look_reward(items, look, SIZE)
    assert 0 < expected < 1
    earned = looks_earned([truth] * size, [look] * size, scene)
    assert earned == pytest.approx([expected] * size, abs=1e-6)


def test_the_annotation_rewards_looks_in_a_group_as_those_of_a_single_rollout():
    # The siblings agree on everybody, so to them nothing is ambiguous; the annotation says that
    # the first of two people, 21 pixels high in the view, is. The look holds all of her.
    truth = [[0, 0, 4, 2], [10, 0, 20, 20]]
    scene = make_scene(truth)
    look = [[0, 0, 4, 2]]
    answers, looks = [truth] * 4, [look, [], [FAR[0]], look]
    prior = EpisodeConfig(reward=RewardConfig(ambiguity="annotation"))
    (alone,) = looks_earned([truth], [look], scene)
    items = prior_ambiguity(truth, [1.0, 1.0], [2 * 320 / 30, 20 * 320 / 30])
    total = items.weights.sum()
    share = items.weights[0] / total
    assert alone == pytest.approx(min(total, 1.0) * (share - 8 / 1200), abs=1e-6)
    assert looks_earned(answers, looks, scene) == [0, 0, 0, 0]
    assert looks_earned(answers, looks, scene, prior) == pytest.approx([alone, 0, 0, alone])


@law
@given(groups, box_lists(), st.data())
def test_answers_never_move_a_look_term_from_the_annotation(group, truth, data):
    answers, looks = zip(*group, strict=True)
    others = [data.draw(box_lists()) for _ in answers]
    config = EpisodeConfig(reward=RewardConfig(ambiguity="annotation"))
    scene = make_scene(truth)
    before = looks_earned(answers, looks, scene, config)
    assert looks_earned(others, looks, scene, config) == before


def test_the_look_reference_is_what_the_look_term_reads():
    annotation = EpisodeConfig(reward=RewardConfig(ambiguity="annotation"))
    assert [look_reference(EpisodeConfig(), size) for size in (1, 2, 3, 8)] == [
        "prior",
        "prior",
        "siblings",
        "siblings",
    ]
    assert [look_reference(annotation, size) for size in (1, 3, 8)] == ["prior"] * 3


def test_boxes_are_clipped_to_the_scene_before_they_are_compared():
    # Three quarters of the amodal person lie outside; a box of the part inside finds all there is.
    inside, amodal, outside = [0, 0, 10, 20], [-30, 0, 10, 20], [-30, 0, -5, 20]
    scene = make_scene([amodal], ignore=[[-99, 20, 40, 30]])
    ignored = [-40, 21, 5, 29]
    answers = [[inside], [amodal], [inside, outside], [inside, ignored]]
    scores = score_group([outcome(answer) for answer in answers], scene, EpisodeConfig())
    assert [s.terms.accuracy for s in scores] == pytest.approx([1, 1, 2 / 3, 1])
    assert scores[2].matches.unmatched_pred.tolist() == [1]
    assert scores[3].matches.dropped.tolist() == [1]


def test_no_answer_is_scored_as_an_empty_one():
    silent = outcome(turns=((THINK, LOOK),), answered=False)
    (score,) = score_group([silent], make_scene([[0, 0, 5, 5]]), EpisodeConfig())
    assert score.terms == RewardTerms(0.0, 0.0, 0.0)


def test_the_total_is_the_weighted_sum():
    terms = RewardTerms(format=1.0, look=0.5, accuracy=0.25)
    weights = {"format": 0.1, "look": 0.2, "accuracy": 0.7}
    assert terms.total(weights) == pytest.approx(0.1 + 0.1 + 0.175)
    assert RewardTerms(1.0, 1.0, 1.0).total(RewardConfig().weights) == pytest.approx(1.0)


def test_every_reward_setting_reaches_the_score():
    truth = [[0, 0, 10, 10], [20, 0, 30, 10], [20, 12, 30, 22]]
    outcomes = [outcome([[0, 0, 10, 8]], turns=((ANSWER,),))]
    base = RewardConfig()

    def terms(**changes):
        config = EpisodeConfig(reward=replace(base, **changes))
        return score_group(outcomes, make_scene(truth), config)[0].terms

    # P = 1, R = 1/3.
    assert terms().accuracy == pytest.approx(1 / 2)
    assert terms(beta=2.0).accuracy == pytest.approx(5 / 13)
    assert terms(iou="0.5:0.95").accuracy == pytest.approx(0.7 / 2)
    assert terms(iou="0.85").accuracy == 0.0
    weighted = terms(accuracy="weighted_sum", precision_weight=0.25)
    assert weighted.accuracy == pytest.approx(0.25 + 0.75 / 3)
    assert terms().format == 0 and terms(graded_format=True).format == pytest.approx(1 / 3)


def test_eight_rollouts_of_a_hundred_people_score_in_twenty_milliseconds():
    rng = np.random.default_rng(0)
    size = (1280, 960)
    low = rng.uniform(0, [1200, 800], (100, 2))
    truth = np.concatenate([low, low + rng.uniform([10, 20], [60, 150], (100, 2))], axis=1)
    scene = make_scene(truth, ignore=[[0, 0, 200, 100]], size=size)
    outcomes = []
    for _ in range(8):
        found = truth + rng.normal(0, 3, truth.shape)
        corners = rng.uniform(0, 1200, (20, 2))
        ghosts = np.concatenate([corners, corners + rng.uniform(10, 80, (20, 2))], axis=1)
        answer = np.concatenate([found[rng.random(100) < 0.8], ghosts])
        outcomes.append(outcome(answer, rng.uniform(0, 600, (3, 4)) + np.array([0, 0, 300, 300])))
    times = []
    for _ in range(10):
        start = time.process_time()
        score_group(outcomes, scene, EpisodeConfig())
        times.append(time.process_time() - start)
    assert min(times) < 0.020
