"""A policy that reads pixels: looks help where they show somebody, and every condition says so.

Four scenes of 256 x 256 pixels hold one bright person of 16 x 32 pixels in one quarter each: top
left, top right, bottom right, bottom left. The reader looks at the two top quarters and answers
what is bright in the crops; without a look it answers what is bright in the overview's bottom right
quarter. So its looks win scenes 0 and 1, lose scene 2, and change nothing in scene 3.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dip_agents.evaluation.evaluator import evaluate, evaluate_conditions
from dip_agents.evaluation.play import EvalCondition
from dip_agents.experiments.kinds import (
    NO_LOOKS,
    OWN_LOOKS,
    Variation,
    standard_controls,
    variations,
)
from dip_agents.experiments.measures import COMPARED, scene_f1
from dip_agents.experiments.run import play_variations, run_experiment
from dip_agents.policies.base import Completion
from dip_agents.policies.formatting import make_answer, quantize_boxes
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_env import EpisodeConfig, RewardConfig, Scene, ToyScenes
from dip_env.actions import Grammar, Look, Think
from dip_env.errors import ConfigError
from dip_wrappers.controls import (
    blank_crops,
    blurred_overview,
    first_regions,
    no_image,
    random_looks,
)
from dip_wrappers.traces import load_traces, replay

CORNERS = ((40, 30), (190, 60), (180, 200), (60, 170))
CONFIG = EpisodeConfig(view_size=256, crop_size=256, max_looks=1, max_regions=2, max_turns=3)
LOOKS = [[0, 0, 128, 128], [128, 0, 256, 128]]
SAID = "<think>top</think><look>[[0,0,128,128],[128,0,256,128]]</look>"


class Quarters:
    """The four scenes; counts how often one is drawn."""

    drawn = 0

    def __len__(self):
        return len(CORNERS)

    def __getitem__(self, index):
        x, y = CORNERS[index]
        box = np.array([[x, y, x + 16, y + 32]], np.float32)

        def draw():
            self.drawn += 1
            pixels = np.zeros((256, 256, 3), np.uint8)
            pixels[y : y + 32, x : x + 16] = 255
            return Image.fromarray(pixels)

        return Scene(
            scene_id=f"quarter-{index}",
            size=(256, 256),
            boxes=box,
            visible_boxes=box,
            visible_share=np.ones(1, np.float32),
            ignore=np.zeros(1, bool),
            labels=("person",),
            load_image=draw,
        )


def bright(image, region):
    """The box around what is bright in a picture of a region, scene frame; none, if nothing is."""
    rows, columns = np.nonzero(image[..., 0] > 200)
    if not len(rows):
        return []
    height, width = image.shape[:2]
    size = np.array([width, height, width, height])
    low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
    origin, side = np.tile(region[:2], 2), np.tile(region[2:] - region[:2], 2)
    return [origin + np.array([*low, *high]) / size * side]


class Reader:
    """Looks at both top quarters if it may, then answers what it sees."""

    def __init__(self):
        self.grammar = Grammar(CONFIG.max_regions)
        self.asked = 0

    def act(self, observations, seeds):
        self.asked += len(observations)
        return [Completion(self.grammar.format(self.segments(o))) for o in observations]

    def segments(self, observation):
        if observation.looks_left and observation.turn == 0:
            return Think("top"), Look(np.array(LOOKS))
        if observation.crops:
            boxes = [b for crop in observation.crops for b in bright(crop.image, crop.region)]
        else:
            corner = observation.messages[0].images[0][128:, 128:]
            boxes = bright(corner, np.array([128, 128, 256, 256]))
        boxes = np.array(boxes).reshape(-1, 4)
        return Think("seen"), make_answer(quantize_boxes(boxes, observation.view))


def under(controls):
    """Own looks, no looks, and each control."""
    without = replace(CONFIG, max_looks=0)
    return [
        Variation(OWN_LOOKS, "own", None, EvalCondition(CONFIG), NO_LOOKS),
        Variation(NO_LOOKS, "control", None, EvalCondition(without)),
        *(Variation(c.name, "control", None, EvalCondition(CONFIG, c), NO_LOOKS) for c in controls),
    ]


@pytest.fixture(scope="module")
def ways():
    blur = blurred_overview(2.0)
    controls = (random_looks(), blank_crops(), blur, no_image(), first_regions(1))
    oracle = next(c for c in standard_controls(CONFIG) if c.name == "oracle looks")
    return under((*controls, oracle))


@pytest.fixture(scope="module")
def played(ways):
    reader = Reader()
    return play_variations(lambda rules: reader, Quarters(), range(4), ways, batch_size=3)


@pytest.fixture(scope="module")
def report(ways):
    return run_experiment(
        "controls", lambda rules: Reader(), Quarters(), range(4), ways, batch_size=3
    )


@pytest.fixture(scope="module")
def found(report):
    return report.to_json()


def test_every_condition_finds_what_its_pictures_show(played):
    # F1 of a scene is 1 where the person is found, else 0.
    f1 = {name: scene_f1(result.score).tolist() for name, result in played.results.items()}
    assert f1[OWN_LOOKS] == [1, 1, 0, 0]
    assert f1[NO_LOOKS] == [0, 0, 1, 0]
    assert f1["crops blanked"] == [0, 0, 0, 0]
    assert f1["no image"] == [0, 0, 0, 0]
    assert f1["overview blurred"] == [1, 1, 0, 0]
    assert f1["first region only"] == [1, 0, 0, 0]
    assert f1["oracle looks"] == [1, 1, 1, 1]


def test_differences_are_paired_with_own_looks(report, found):
    # Own looks: 2 found, 2 missed, none false: P = 1, R = 1/2, F1 = 2/3. None: R = 1/4, F1 = 2/5.
    own, none = found["conditions"][OWN_LOOKS]["metrics"], found["conditions"][NO_LOOKS]
    assert own["F1"]["value"] == pytest.approx(2 / 3)
    assert none["metrics"]["F1"]["value"] == pytest.approx(2 / 5)
    assert none["against_reference"]["F1"]["value"] == pytest.approx(2 / 5 - 2 / 3)
    assert none["against_reference"]["recall"]["value"] == pytest.approx(-1 / 4)
    assert none["against_reference"]["precision"]["value"] == 0
    assert "against_reference" not in found["conditions"][OWN_LOOKS]
    # Equal observations give equal actions: the interval has no width either.
    blurred = found["conditions"]["overview blurred"]["against_reference"]
    assert blurred["F1"] == blurred["recall"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert report.conditions["oracle looks"].against_reference["recall"].value == pytest.approx(
        1 / 2
    )


def test_gain_and_harm_are_against_no_looks(found):
    split = found["conditions"][OWN_LOOKS]["gain_harm"]
    assert (split["rose"], split["fell"], split["stayed"]) == (2, 1, 1)
    assert (split["mean_rise"], split["mean_fall"]) == (1.0, -1.0)
    assert split["mean"]["value"] == pytest.approx(1 / 4)
    assert split["mean"]["low"] < 0 < split["mean"]["high"]
    blank = found["conditions"]["crops blanked"]["gain_harm"]
    assert (blank["rose"], blank["fell"], blank["mean_rise"]) == (0, 1, None)
    assert "gain_harm" not in found["conditions"][NO_LOOKS]


def test_the_budget_runs_from_no_look_to_all_of_them(found):
    budget = (NO_LOOKS, "first region only", OWN_LOOKS)
    conditions = found["conditions"]
    looks = [conditions[name]["looks"] for name in budget]
    assert [look["regions"]["value"] for look in looks] == [0, 1, 2]
    assert [look["area"]["value"] for look in looks] == [0, 0.25, 0.5]
    # 0, 1 and 2 of the 4 people are found after looks; the overview alone shows 1.
    recalls = [conditions[name]["metrics"]["recall"]["value"] for name in budget]
    assert recalls == [1 / 4, 1 / 4, 2 / 4]


def test_looks_land_where_they_were_really_taken(played, found):
    # Each scene has one ambiguous person: covered in scenes 0 and 1, on half of the image.
    look_coverage = found["conditions"][OWN_LOOKS]["looks"]
    assert look_coverage["covered"]["value"] == pytest.approx(1 / 2)
    assert look_coverage["look"]["value"] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)
    assert look_coverage["looked"]["value"] == 1
    assert found["conditions"][NO_LOOKS]["looks"]["looked"]["value"] == 0
    # Grey crops were looked at all the same.
    assert found["conditions"]["crops blanked"]["looks"] == look_coverage
    oracle = found["conditions"]["oracle looks"]["looks"]
    assert oracle["covered"]["value"] == 1 and oracle["area"]["value"] < 0.02
    assert found["conditions"]["random looks"]["looks"]["area"]["value"] <= 0.5
    # The reward is that of the same looks, times the ambiguity of the one person.
    ambiguity = played.results[OWN_LOOKS].score.values()["look"] / (1 / 4)
    assert 0 < ambiguity < 1
    for name, result in played.results.items():
        mean = np.mean([look_coverage.look for look_coverage in played.look_coverages[name]])
        assert result.score.values()["look"] == pytest.approx(ambiguity * mean)


def test_a_report_is_plain_json_and_says_how_it_was_measured(found, played):
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert list(found["conditions"])[:2] == [OWN_LOOKS, NO_LOOKS]
    assert found["n"] == 4 and found["scene_indices"] == [0, 1, 2, 3]
    assert found["interval_level"] == 0.95 and found["iou_threshold"] == 0.5
    assert {result.look_reference for result in played.results.values()} == {"prior"}
    assert found["config"]["max_looks"] == 1


def test_scenes_are_drawn_once_and_alike_beginnings_are_asked_once():
    source, reader, seen = Quarters(), Reader(), []
    play_variations(
        lambda rules: reader,
        source,
        range(4),
        under([blank_crops(), first_regions(1)]),
        batch_size=2,
        on_batch=lambda done, total: seen.append((done, total)),
    )
    assert source.drawn == 4
    # First turns: with and without a budget. Second: own crops, grey ones, the first alone.
    assert reader.asked == 4 * (2 + 3)
    assert seen == [(2, 4), (4, 4)]


def test_a_condition_is_an_evaluation_of_its_own():
    conditions = {
        "a": EvalCondition(CONFIG),
        "b": EvalCondition(replace(CONFIG, max_looks=0)),
        "c": EvalCondition(CONFIG, no_image()),
    }
    together = evaluate_conditions(Reader(), Quarters(), range(4), conditions, seed=3)
    for name, condition in conditions.items():
        options = {"seed": 3, "control": condition.control}
        alone = evaluate(Reader(), Quarters(), range(4), condition.config, **options)
        assert together[name].score.values() == alone.score.values()
        assert (together[name].config, together[name].seed) == (alone.config, alone.seed)
    assert [result.control for result in together.values()] == [OWN_LOOKS, OWN_LOOKS, "no image"]


def test_the_report_gives_the_metrics_of_an_evaluation(played, found):
    for name in (OWN_LOOKS, NO_LOOKS):
        metrics = played.results[name].metrics
        for metric, said in found["conditions"][name]["metrics"].items():
            there = metrics[metric]
            assert [said[k] for k in ("value", "low", "high")] == pytest.approx(
                [there.value, there.low, there.high]
            )
    assert set(found["conditions"][OWN_LOOKS]["metrics"]) == set(COMPARED)


def test_an_evaluation_under_a_control_records_what_was_done(tmp_path):
    result = evaluate(Reader(), Quarters(), [0, 1], CONFIG, control=first_regions(1), out=tmp_path)
    assert result.metrics["recall"].value == 1 / 2
    assert json.loads((tmp_path / "metrics.json").read_text())["control"] == "first region only"
    for trace in load_traces(tmp_path / "traces"):
        assert trace.turns[0].action == SAID.replace(",[128,0,256,128]", "")
        assert len(trace.turns[0].crops) == 1
        assert replay(trace, Quarters()).done


@pytest.mark.parametrize(
    ("ambiguity", "group_size", "reference"),
    [
        ("siblings", 1, "prior"),
        ("siblings", 2, "prior"),
        ("siblings", 3, "siblings"),
        ("annotation", 3, "prior"),
    ],
)
def test_an_evaluation_says_what_its_look_term_was_measured_against(
    ambiguity, group_size, reference
):
    config = replace(CONFIG, reward=RewardConfig(ambiguity=ambiguity))
    result = evaluate(Reader(), Quarters(), [0], config, group_size=group_size)
    assert result.look_reference == result.to_json()["look_reference"] == reference
    # The readers agree, so their siblings find nothing ambiguous; the annotation does.
    assert (result.metrics["look"].value > 0) == (reference == "prior")


def test_an_experiment_runs_with_the_standard_controls_and_any_policy():
    config = EpisodeConfig(view_size=256, max_looks=1, max_regions=2)
    source = ToyScenes()
    policy = OraclePolicy(source, config, OracleConfig(decimals=2))
    ways = variations("controls", config)
    played = play_variations(lambda rules: policy, source, [0, 1], ways)
    assert list(played.results)[2:] == [c.name for c in standard_controls(config)]
    # The oracle has the ground truth, whatever it is shown.
    assert all(scene_f1(one.score).tolist() == [1, 1] for one in played.results.values())


def test_what_cannot_be_compared_is_refused():
    def play(variations, indices=(0,)):
        return run_experiment("controls", lambda rules: Reader(), Quarters(), indices, variations)

    with pytest.raises(ConfigError, match="indices: expected at least one scene, got none"):
        play(under([]), indices=[])
    with pytest.raises(ConfigError, match="variations: expected at least one, got none"):
        play([])
    with pytest.raises(ConfigError, match="one named 'crops blanked', got several"):
        play(under([blank_crops(), blank_crops()]))
    with pytest.raises(ConfigError, match="one named 'no looks', got several"):
        play(under([replace(blank_crops(), name=NO_LOOKS)]))
    with pytest.raises(ConfigError, match=r"without: expected one of .* got 'no looks'"):
        play(under([])[:1])
