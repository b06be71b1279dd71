import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from dip_agents.experiments.kinds import (
    ExperimentKind,
    left_out,
    standard_controls,
    variations,
)
from dip_agents.experiments.report import ExperimentReport
from dip_agents.experiments.run import run_experiment
from dip_agents.policies.base import Completion
from dip_agents.policies.formatting import make_answer, quantize_boxes
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_agents.policies.oracle_looks import WholeImage
from dip_env import EpisodeConfig, ToyScenes
from dip_env.actions import Grammar, Look, Think
from dip_env.errors import ConfigError

RULES = EpisodeConfig(view_size=320, crop_size=64, max_looks=1, max_regions=2, max_turns=3)
SCENES = (0, 1)


class Needy:
    """Answers everybody once it has seen two crops, and nobody before; remembers its rules."""

    def __init__(self, config):
        self.config, self.grammar = config, Grammar(config.max_regions, config.max_boxes)

    def act(self, observations, seeds):
        return [Completion(self.grammar.format(self.segments(o))) for o in observations]

    def segments(self, observation):
        if observation.looks_left and not observation.crops:
            width, height = observation.view.text_size
            quarters = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
            return [Think("two places"), Look(quarters * (width, height, width, height))]
        truth = ToyScenes()[observation.scene_index].truth
        boxes = truth if len(observation.crops) >= 2 else truth[:0]
        return [Think("done"), make_answer(quantize_boxes(boxes, observation.view, decimals=2))]


def experiment(kind, rules=RULES, **choices):
    ways = variations(kind, rules, **choices)
    return run_experiment(kind, Needy, ToyScenes(), SCENES, ways)


def report(kind, rules=RULES, **choices):
    return experiment(kind, rules, **choices).to_json()


def f1(found):
    return {
        name: condition["metrics"]["F1"]["value"] for name, condition in found["conditions"].items()
    }


def test_a_smaller_budget_costs_what_the_policy_needed_it_for():
    found = report("look-budget")
    assert f1(found) == {
        "own looks": 1,
        "no looks": 0,
        "single pass": 0,
        "first region only": 0,
        "regions 0.5x as wide": 1,
        "regions 0.7x as wide": 1,
        "regions 1.4x as wide": 1,
        "regions 2x as wide": 1,
    }
    conditions = found["conditions"]
    assert conditions["no looks"]["against_reference"]["F1"] == {"value": -1, "low": -1, "high": -1}
    assert conditions["own looks"]["gain_harm"]["rose"] == 2
    # Two quarters of the overview; half as wide is a quarter of that.
    assert conditions["own looks"]["looks"]["area"]["value"] == pytest.approx(0.5)
    assert conditions["regions 0.5x as wide"]["looks"]["area"]["value"] == pytest.approx(0.125)
    assert found["own_positions"] == {
        "looks that are allowed": 1, "regions of a look": 2, "size of regions": 1.0
    }  # fmt: skip


def test_several_looks_are_taken_away_one_by_one():
    names = [way.name for way in variations("look-budget", replace(RULES, max_looks=3))]
    assert names[:4] == ["own looks", "no looks", "1 look at most", "2 looks at most"]


def test_the_single_pass_rewards_looks_whose_crops_nobody_sees():
    # Everybody it would answer after a look is answered; the looks are taken, no crop is there.
    source = ToyScenes()
    found = run_experiment(
        "look-budget",
        lambda rules: OraclePolicy(source, rules, OracleConfig(look=WholeImage())),
        source,
        SCENES,
        variations("look-budget", RULES),
    ).to_json()
    condition = found["conditions"]["single pass"]
    assert condition["metrics"]["F1"]["value"] > 0.9
    assert condition["looks"]["area"]["value"] == 1
    assert found["left_out"] == {}


def test_the_single_pass_is_left_out_with_a_reason_where_the_prompt_cannot_ask_for_it():
    minimal_prompt = replace(RULES, minimal_prompt=True)
    assert "single pass" not in [way.name for way in variations("look-budget", minimal_prompt)]
    found = report("look-budget", minimal_prompt)
    assert list(found["left_out"]) == ["single pass"]
    assert left_out("controls", minimal_prompt) == {}


def test_controls_are_those_of_a_report_beside_no_looks():
    found = f1(report("controls", tiles=True))
    assert found["no looks"] == 0
    assert {"random looks", "oracle looks at tiles", "oracle places at tiles"} <= set(found)
    assert found["crops blanked"] == 1  # it reads no pixels


def test_coordinates_change_what_is_printed_and_nothing_else():
    found = f1(report("coordinates", replace(RULES, coordinate_format="norm1000")))
    # The policy's own format comes first: the others are compared with it.
    assert list(found) == [
        "norm1000, own looks", "norm1000, no looks", "pixel, own looks", "pixel, no looks"
    ]  # fmt: skip
    assert list(found.values()) == [1, 0, 1, 0]


def test_the_effect_of_looks_is_reported_at_every_step_and_in_every_format():
    for kind in ("coordinates", "resolution"):
        conditions = report(kind)["conditions"]
        gains = {
            name: condition["gain_harm"]
            for name, condition in conditions.items()
            if "gain_harm" in condition
        }
        assert list(gains) == [name for name in conditions if name.endswith("own looks")]
        assert all(gain["mean"] == {"value": 1, "low": 1, "high": 1} for gain in gains.values())
        assert all(
            conditions[conditions[name]["without"]]["series"] == "no looks" for name in gains
        )


def test_resolution_takes_details_or_changes_the_size():
    ways = variations("resolution", RULES)
    assert [way.position for way in ways] == [320, 320, 40, 40, 80, 80, 160, 160, 240, 240]
    assert {way.condition.config.view_size for way in ways} == {320}
    ways = variations("resolution", RULES, view_sizes=(320, 640))
    assert [(way.condition.config.view_size, way.condition.config.max_looks) for way in ways] == [
        (320, 1), (320, 0), (640, 1), (640, 0)
    ]  # fmt: skip
    asked = []
    run_experiment(
        "resolution", lambda rules: asked.append(rules) or Needy(rules), ToyScenes(), [0], ways
    )
    assert [rules.view_size for rules in asked] == [320, 320, 640, 640]


@pytest.mark.parametrize("kind", get_args(ExperimentKind))
def test_conditions_have_different_names_and_the_report_is_plain_json(kind):
    made = experiment(kind)
    found = made.to_json()
    names = [way.name for way in variations(kind, RULES)]
    assert list(found["conditions"]) == list(dict.fromkeys(names)) and len(set(names)) == len(names)
    assert found["reference"] == names[0]
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert ExperimentReport.from_json(json.loads(text)) == made


def test_the_standard_controls_cover_every_kind():
    names = [control.name for control in standard_controls(replace(RULES, max_regions=3))]
    assert names == [
        "random looks",
        "oracle places",
        "oracle looks",
        "crops blanked",
        "crops from another place",
        "overview blurred",
        "no image",
        "first region only",
        "first 2 regions only",
    ]


def test_oracle_looks_go_on_where_the_first_look_ended():
    config = EpisodeConfig(view_size=256, max_looks=2, max_regions=1, max_turns=4)
    oracle = next(c for c in standard_controls(config) if c.name == "oracle looks")
    # Three people far from each other.
    episode = oracle.episode(ToyScenes()[0], config)
    episode.step("<look>[[0,0,9,9]]</look>")
    episode.step("<look>[[0,0,9,9]]</look>")
    assert len({tuple(region) for region in episode.looks.tolist()}) == 2


def test_the_oracle_can_look_at_tiles_in_place_of_a_policy():
    config = EpisodeConfig(view_size=256, crop_size=64, max_looks=1, max_regions=2)
    for tiles in (False, True):
        controls = standard_controls(config, tiles=tiles)
        (oracle,) = [c for c in controls if c.name.startswith("oracle looks")]
        assert f"oracle places{' at tiles' * tiles}" in [c.name for c in controls]
        assert oracle.name == "oracle looks" + " at tiles" * tiles
        episode = oracle.episode(ToyScenes()[0], config)
        episode.step("<look>[[0,0,9,9]]</look>")
        sides = episode.view.scene_to_view(episode.looks)[:, 2:]
        sides = sides - episode.view.scene_to_view(episode.looks)[:, :2]
        # Half of 64 pixels, which the crop shows at 2x.
        assert np.allclose(sides, 32) == tiles


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ConfigError, match=r"max_looks: expected at least 1 .* got 0"):
        variations("look-budget", replace(RULES, max_looks=0))
    with pytest.raises(ConfigError, match=r"max_turns: expected at least 2 .* got 1"):
        variations("controls", replace(RULES, max_turns=1))
    with pytest.raises(ConfigError, match="minimal_prompt: expected False for coordinates"):
        variations("coordinates", replace(RULES, minimal_prompt=True))
    ways = variations("coordinates", RULES)
    with pytest.raises(ConfigError, match="at least one scene"):
        run_experiment("coordinates", Needy, ToyScenes(), [], ways)
    with pytest.raises(ConfigError, match="one named 'pixel, own looks', got several"):
        run_experiment("coordinates", Needy, ToyScenes(), [0], [*ways, ways[0]])
    with pytest.raises(ConfigError, match=r"without: expected one of .*, got 'pixel, no l"):
        run_experiment("coordinates", Needy, ToyScenes(), [0], ways[:1])


def test_looks_at_tiles_are_magnified_as_the_condition_says_and_random_ones_stay_the_same():
    ways = {way.name: way for way in variations("magnification", RULES, seed=3)}
    assert set(ways) == {
        "own looks",
        "no looks",
        *(f"{where} tiles at {scale}x" for where in ("oracle", "random") for scale in (1, 2, 3, 4)),
    }
    scene = ToyScenes()[0]
    for scale in (1, 2, 4):
        for where in ("oracle", "random"):
            way = ways[f"{where} tiles at {scale}x"]
            assert (way.series, way.position) == (f"{where} tiles", scale)
            group = way.condition.group(scene, 1, 0)
            turn = group.step_member(0, "<think>a</think><look>[[0, 0, 9, 9]]</look>")
            assert {crop.magnification for crop in turn.crops} == {scale}
            again = way.condition.group(scene, 1, 0)
            shown = again.step_member(0, "<think>a</think><look>[[9, 0, 29, 9]]</look>").crops
            assert [c.region.tolist() for c in shown] == [c.region.tolist() for c in turn.crops]
