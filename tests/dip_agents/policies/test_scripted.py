from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dip_agents.policies.formatting import quantize_boxes, random_boxes
from dip_agents.policies.oracle import OracleConfig, OraclePolicy, miss_chances, shown_heights
from dip_agents.policies.oracle_looks import (
    LOOK_STRATEGIES,
    AmbiguousTiles,
    LookStrategy,
    NoLook,
    RandomTiles,
    ambiguous_regions,
    look_tiles,
    oracle_regions,
)
from dip_agents.policies.scripted import GridScanPolicy, RandomPolicy
from dip_env import Episode, EpisodeConfig, Scene, ToyScenes
from dip_env.actions import Answer, Grammar, Look, Think
from dip_env.boxes import box_area, box_iou, covered_share, union_area
from dip_env.errors import ConfigError
from dip_env.scenes import make_source
from dip_env.views import Crop, View

CONFIG = EpisodeConfig()
GRAMMAR = Grammar(CONFIG.max_regions, CONFIG.max_boxes)


class Row:
    """People of equal height in a row; the odd ones are mostly hidden."""

    def __init__(self, people=10):
        self.people = people

    def __len__(self):
        return 50

    def __getitem__(self, index):
        n = self.people
        left = np.arange(n) * 60.0 + 10
        boxes = np.stack([left, np.full(n, 100.0), left + 40, np.full(n, 200.0)], axis=1)
        share = np.where(np.arange(n) % 2 == 0, 1.0, 0.4).astype(np.float32)
        return Scene(
            scene_id=f"row-{index}",
            size=(640, 480),
            boxes=boxes.astype(np.float32),
            visible_boxes=boxes.astype(np.float32),
            visible_share=share,
            ignore=np.zeros(n, bool),
            labels=("person",) * n,
            load_image=lambda: Image.new("RGB", (640, 480)),
        )


def play(policy, source, index, config=CONFIG, seed=0):
    episode = Episode(source[index], config, scene_index=index)
    turns = []
    while not episode.done:
        observation = episode.observation()
        text = policy.act([observation], [seed + observation.turn])[0].text
        turns.append(episode.step(text))
    return episode, turns


def demonstration(source, index):
    episode, _ = play(OraclePolicy(source, CONFIG), source, index)
    return episode.transcript


def segments_of(text):
    return GRAMMAR.parse(text)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("form", ["pixel", "norm1000"])
def test_scripted_policies_never_say_anything_malformed(index, form):
    config = replace(CONFIG, coordinate_format=form)
    source = ToyScenes()
    noisy = OraclePolicy(
        source, config, OracleConfig(miss_rate=0.3, jitter=0.2, false_positive_rate=1.0)
    )
    for policy in (RandomPolicy(config), GridScanPolicy(config), noisy):
        for seed in range(5):
            episode, turns = play(policy, source, index, config, seed)
            assert episode.answered
            assert [turn.parse_error for turn in turns] == [None] * len(turns)


def test_same_observation_and_seed_give_the_same_action_and_seeds_differ():
    source = ToyScenes()
    observation = Episode(source[0], CONFIG, scene_index=0).observation()
    for policy in (
        RandomPolicy(CONFIG),
        OraclePolicy(source, CONFIG, OracleConfig(miss_rate=0.5, jitter=0.1, look=NoLook())),
    ):
        texts = [c.text for c in policy.act([observation] * 20, list(range(20)))]
        assert texts == [c.text for c in policy.act([observation] * 20, list(range(20)))]
        assert len(set(texts)) > 5


def test_the_perfect_oracle_finds_everyone_and_earns_the_full_reward():
    _, turns = play(OraclePolicy(Row(), CONFIG), Row(), 0)
    assert len(turns) == 2
    terms = turns[-1].result.terms.as_dict()
    assert terms["accuracy"] == 1.0
    assert terms["format"] == 1.0
    assert terms["look"] > 0.3


def test_the_oracle_thinks_the_truth_then_looks_then_answers_by_left_edge():
    _, first, _, second = demonstration(Row(), 0)
    think, look = segments_of(first.text)
    # Ten people of 67 view pixels; those with four tenths visible are uncertain by the prior.
    assert think == Think("10 people, 5 unclear.")
    assert isinstance(look, Look)
    assert len(look.regions) <= CONFIG.max_regions
    thought, answer = segments_of(second.text)
    assert thought == Think("10 people.")
    assert isinstance(answer, Answer)
    assert list(answer.boxes[:, 0]) == sorted(answer.boxes[:, 0])
    assert (answer.boxes == np.round(answer.boxes)).all()


def test_a_demonstration_is_a_finished_conversation_with_crops():
    messages = [demonstration(ToyScenes(), index) for index in (0, 2, 3)]
    for conversation in messages:
        assert [m.role for m in conversation] == ["user", "assistant", "user", "assistant"]
        assert conversation[2].images
    # Nobody in scene 2: it still looks, and answers with nobody.
    assert segments_of(messages[1][3].text)[-1] == Answer(np.zeros((0, 4)))


def test_an_oracle_may_leave_out_whom_no_picture_shows():
    # Heights in the scene 960 high, in the view a fifth of it: 100 -> 20 and 30 -> 6 pixels.
    boxes = np.array([[100.0, 100, 140, 200], [800, 500, 812, 530]])
    view = View((1280, 960), (256, 192))
    assert shown_heights(boxes, view, []).tolist() == [20, 6]
    # A crop of a quarter of the width at three times the view's scale holds the second only.
    crop = Crop(np.zeros((1, 1, 3), np.uint8), np.array([700.0, 400, 1020, 640]), 3.0)
    assert shown_heights(boxes, view, [crop]).tolist() == [20, 18]
    # Of the first less than four tenths would be inside.
    cut = Crop(np.zeros((1, 1, 3), np.uint8), np.array([125.0, 100, 400, 300]), 3.0)
    assert shown_heights(boxes, view, [cut]).tolist() == [20, 6]


def test_what_the_oracle_answers_depends_on_what_it_saw():
    source = Row()
    scene = source[0]
    tall = scene.truth[:, 3] - scene.truth[:, 1]
    episode = Episode(scene, CONFIG, scene_index=0)
    in_view = tall * episode.view.view_size[1] / scene.size[1]
    limit = float(in_view.max()) + 1
    blind = OraclePolicy(source, CONFIG, OracleConfig(min_visible_height=limit, look=NoLook()))
    assert segments_of(blind.act([episode.observation()], [0])[0].text)[-1].boxes.shape[0] == 0
    looking = OraclePolicy(source, CONFIG, OracleConfig(min_visible_height=limit))
    _, turns = play(looking, source, 0)
    assert 0 < len(turns[-1].result.answer_boxes) < len(tall)


def test_p_no_look_the_oracle_just_answers():
    config = replace(CONFIG, max_looks=0)
    _, turns = play(OraclePolicy(Row(), config), Row(), 0, config)
    assert len(turns) == 1
    assert turns[0].result.terms.accuracy == 1.0


def test_where_there_is_one_turn_everybody_looks_and_answers_in_it():
    config = replace(CONFIG, max_turns=1)
    forms = set()
    for policy in (OraclePolicy(Row(), config), GridScanPolicy(config), RandomPolicy(config)):
        for seed in range(8):
            episode = Episode(Row()[0], config, scene_index=0)
            (said,) = policy.act([episode.observation()], [seed])
            turn = episode.step(said.text)
            assert turn.terminated and turn.parse_error is None
            assert isinstance(turn.segments[-1], Answer)
            looked = any(isinstance(segment, Look) for segment in turn.segments)
            assert turn.crops == () and bool(len(episode.looks)) is looked
            forms.add((type(policy).__name__, looked))
    assert forms == {
        ("OraclePolicy", True), ("GridScanPolicy", True),
        ("RandomPolicy", True), ("RandomPolicy", False),
    }  # fmt: skip


def test_oracle_noise_has_the_configured_size():
    source = Row()
    scene, view = source[0], Episode(source[0], CONFIG).view
    oracle = OraclePolicy(
        source, CONFIG, OracleConfig(miss_rate=0.3, false_positive_rate=0.5, decimals=2)
    )
    found = invented = 0
    for seed in range(300):
        boxes = view.text_to_scene(oracle.people(scene, view, np.random.default_rng(seed)))
        hit = (box_iou(boxes, scene.truth) > 0.9).any(axis=1)
        found += hit.sum()
        invented += (~hit).sum()
    # 3000 chances each: three standard deviations are 0.025 and 0.039.
    assert found / 3000 == pytest.approx(0.7, abs=0.025)
    assert invented / 3000 == pytest.approx(0.5, abs=0.04)


def test_hard_misses_keep_the_mean_and_fall_with_what_is_visible():
    scene = Row()[0]
    chances = miss_chances(scene, 0.4, "hard")
    assert chances.mean() == pytest.approx(0.4)
    assert (chances >= 0).all()
    assert (chances <= 1).all()
    hidden = scene.visible_share < 1
    assert chances[hidden].min() > chances[~hidden].max()
    assert (miss_chances(scene, 0.4, "even") == 0.4).all()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"miss_rate": 1.5}, "miss_rate: expected a number in"),
        ({"jitter": -1.0}, "jitter: expected at least 0, got -1.0"),
        ({"false_positive_rate": -0.5}, "false_positive_rate: expected at least 0, got -0.5"),
        ({"min_visible_height": -1}, "min_visible_height: expected at least 0, got -1"),
        ({"overview_scale": 0.0}, "overview_scale: expected a number in"),
        ({"decimals": 3}, "decimals: expected 0, 1 or 2, got 3"),
        ({"look": "sideways"}, "look: expected a look strategy, got 'sideways'"),
        ({"misses": "some"}, "misses: expected even or hard"),
    ],
)
def test_oracle_options_out_of_range_are_named(option, message):
    with pytest.raises(ConfigError, match=message):
        OracleConfig(**option)


def test_a_look_strategy_of_ones_own_chooses_the_regions():
    class Corner:
        def regions(self, scene, view, rules, rng):
            return np.array([[0.0, 0, 64, 64]])

    assert isinstance(Corner(), LookStrategy)
    _, turns = play(OraclePolicy(Row(), CONFIG, OracleConfig(look=Corner())), Row(), 0)
    assert turns[0].segments[-1].regions.tolist() == [[0, 0, 64, 64]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomPolicy(CONFIG, max_people=-1), "max_people: expected at least 0, got -1"),
        (lambda: GridScanPolicy(CONFIG, cells=(0, 2)), r"cells: expected .*, got \(0, 2\)"),
        (lambda: GridScanPolicy(CONFIG, people=(8, 0)), r"people: expected .*, got \(8, 0\)"),
    ],
)
def test_settings_of_scripted_policies_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_oracle_needs_to_know_the_scene():
    observation = Episode(ToyScenes()[0], CONFIG).observation()
    with pytest.raises(ConfigError, match="scene_index: expected"):
        OraclePolicy(ToyScenes(), CONFIG).act([observation], [0])


def test_look_strategies_do_what_they_say():
    source = Row()
    for mode, check in (
        ("whole", lambda look: (look.regions == [[0, 0, 448, 320]]).all()),
        ("random", lambda look: len(look.regions) == CONFIG.max_regions),
    ):
        policy = OraclePolicy(source, CONFIG, OracleConfig(look=LOOK_STRATEGIES[mode]))
        episode = Episode(source[0], CONFIG, scene_index=0)
        text = policy.act([episode.observation()], [0])[0].text
        assert check(segments_of(text)[1])
    _, turns = play(OraclePolicy(source, CONFIG, OracleConfig(look=NoLook())), source, 0)
    assert len(turns) == 1


def test_tiles_are_squares_shown_at_2x_on_a_grid_that_holds_the_whole_view():
    # 448 x 320, crops of 224: squares of 112, 28 apart, the last ones at the border.
    view = View((1280, 960), (448, 320))
    tiles = view.scene_to_view(look_tiles(view, CONFIG))
    np.testing.assert_allclose(tiles[:, 2:] - tiles[:, :2], 112)
    assert sorted(set(tiles[:, 0].round(6))) == [28 * k for k in range(13)]
    assert sorted(set(tiles[:, 1].round(6))) == [*(28 * k for k in range(8)), 208]


def test_tiles_are_no_larger_than_the_view():
    view = View((100, 100), (64, 32))
    assert view.scene_to_view(look_tiles(view, CONFIG)).round(6).tolist() == [[0, 0, 64, 32]]


def test_the_best_tiles_are_picked_and_not_joined():
    tiles = np.array([[0, 0, 50, 50], [50, 0, 100, 50], [0, 50, 50, 100], [50, 50, 100, 100.0]])
    boxes = np.array([[10, 10, 20, 40], [60, 60, 70, 90], [80, 60, 90, 90]])
    picked = ambiguous_regions(boxes, np.array([1, 1, 0.5]), (100, 100), 3, tiles=tiles)
    # 1.5 of 2.5 lies in the last tile, 1 in the first, nothing in the others.
    assert picked.tolist() == [[50, 50, 100, 100], [0, 0, 50, 50]]


@given(st.integers(0, 9))
def test_an_oracle_that_looks_at_tiles_prints_whole_numbers_and_sees_them_at_2x(index):
    source, rules = make_source("crowd"), replace(CONFIG, crop_size=128)
    episode = Episode(source[index], rules, scene_index=index)
    policy = OraclePolicy(source, rules, OracleConfig(look=AmbiguousTiles()))
    turn = episode.step(policy.act([episode.observation()], [0])[0].text)
    assert 1 <= len(turn.crops) <= rules.max_regions
    assert all(crop.magnification == pytest.approx(2) for crop in turn.crops)
    assert all(crop.image.shape == (128, 128, 3) for crop in turn.crops)


@pytest.mark.parametrize("magnification", [2.0, 3.0, 4.0])
def test_crops_of_tiles_are_as_much_larger_as_the_rules_say(magnification):
    source = make_source("far")
    rules = replace(CONFIG, view_size=384, crop_size=192, magnification=magnification)
    for look in (AmbiguousTiles(), RandomTiles()):
        policy = OraclePolicy(source, rules, OracleConfig(look=look))
        episode = Episode(source[1], rules, scene_index=1)
        turn = episode.step(policy.act([episode.observation()], [0])[0].text)
        assert turn.crops
        assert all(crop.magnification == pytest.approx(magnification) for crop in turn.crops)


@given(st.integers(0, 1000))
def test_random_tiles_are_different_tiles_whatever_the_scene_shows(seed):
    source, rules = make_source("toy"), replace(CONFIG, max_regions=5)
    view = Episode(source[0], rules).view
    looks = [
        RandomTiles().regions(source[index], view, rules, np.random.default_rng(seed)).tolist()
        for index in (0, 1)
    ]
    tiles = view.scene_to_view(look_tiles(view, rules)).round().tolist()
    assert looks[0] == looks[1]
    assert len({tuple(region) for region in looks[0]}) == 5
    assert all(region in tiles for region in looks[0])


def test_tiles_fit_crops_that_are_rounded_down():
    # Crops of at most 250 pixels are 224 pixels long where sides are multiples of 32.
    view = View((1280, 960), (448, 320))
    rounded = replace(CONFIG, crop_size=250)
    assert look_tiles(view, rounded).tolist() == look_tiles(view, CONFIG).tolist()


@pytest.mark.parametrize(
    ("size", "tile"),
    [
        # 13 x 9 tiles of 112 in 448 x 320, 28 apart: the seventh of the fifth row.
        ((640, 480), [168, 112, 280, 224]),
        # In 448 x 288 rows begin at 0, 28, ..., 168 and 176: their middle, 88, is nearest to 84.
        ((640, 427), [168, 84, 280, 196]),
    ],
)
def test_where_nothing_is_unclear_the_tile_in_the_middle_is_looked_at(size, tile):
    empty = replace(ToyScenes()[2], size=size, load_image=lambda: Image.new("RGB", size))
    view = Episode(empty, CONFIG).view
    assert oracle_regions(empty, view, CONFIG, tiles=True).tolist() == [tile]


def test_oracle_looks_are_small_enough_to_be_enlarged():
    source = Row()
    episode = Episode(source[0], CONFIG, scene_index=0)
    turn = episode.step(OraclePolicy(source, CONFIG).act([episode.observation()], [0])[0].text)
    assert turn.crops
    assert all(crop.magnification > 1.3 for crop in turn.crops)


def test_grid_scan_looks_at_every_cell_once_and_then_answers():
    episode, turns = play(GridScanPolicy(CONFIG), ToyScenes(), 0)
    regions = np.array([crop.region for crop in episode.crops])
    assert [len(turn.crops) for turn in turns] == [3, 3, 0]
    # Six cells of a 3 x 2 grid: together the whole 640 x 480 scene, up to rounding of cell edges.
    assert union_area(regions) == pytest.approx(640 * 480, rel=0.01)
    assert box_area(regions).sum() == pytest.approx(640 * 480, rel=0.03)
    assert len(episode.outcome.answer) == 24


def test_regions_go_to_ambiguity_and_join_neighbours():
    # Two unclear people side by side, one far away, and a certain one.
    boxes = np.array([[10, 10, 20, 40], [22, 10, 32, 40], [80, 60, 90, 90], [50, 50, 60, 80.0]])
    regions = ambiguous_regions(boxes, np.array([1, 1, 0.5, 0]), (100, 100), 2, margin=0.0)
    assert regions.tolist() == [[10, 10, 32, 40], [80, 60, 90, 90]]


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 4))
def test_regions_stay_inside_within_budget_and_earn_reward(seed, n, max_regions):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(n, (640, 480), rng, (0.05, 0.4))
    weights = rng.uniform(0, 1, n)
    regions = ambiguous_regions(boxes, weights, (640, 480), max_regions)
    assert len(regions) <= max_regions
    assert (regions[:, :2] >= 0).all()
    assert (regions[:, 2:] <= (640, 480)).all()
    if n:
        gain = (weights * covered_share(boxes, regions)).sum() / weights.sum()
        assert gain > union_area(regions) / (640 * 480)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["pixel", "norm1000"]), st.booleans())
def test_printed_boxes_are_integers_inside_the_view_with_area(seed, form, outward):
    rng = np.random.default_rng(seed)
    view = View.of((1280, 960), 448, 32, form)
    boxes = np.sort(rng.uniform(-200, 1500, (20, 2, 2)), axis=1).reshape(-1, 4)
    text = quantize_boxes(boxes, view, outward=outward)
    assert (text == np.round(text)).all()
    assert (box_area(text) >= 1).all()
    assert (text >= 0).all()
    assert (text[:, 2:] <= view.text_size).all()


def test_oracle_regions_fall_back_to_the_middle_where_nothing_is_unclear():
    source = ToyScenes()
    view = Episode(source[2], CONFIG).view
    # The middle fifth of a 448 x 320 view.
    assert oracle_regions(source[2], view, CONFIG).tolist() == [[179, 128, 269, 192]]
