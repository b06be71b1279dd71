import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from dip_agents.evaluation.evaluator import evaluate
from dip_agents.evaluation.files import load_evaluation
from dip_agents.evaluation.play import play
from dip_agents.evaluation.result import format_interval, paired_gain, print_results
from dip_agents.evaluation.scores import COUNTERS, MATCHED, METRICS, RANKED
from dip_agents.policies.base import CallablePolicy, Completion
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_agents.policies.scripted import RandomPolicy
from dip_env import EpisodeConfig, EpisodeGroup, RewardConfig, ToyScenes
from dip_env.actions import Answer, Grammar
from dip_env.errors import ConfigError, SceneError
from dip_env.formats.coco_json import read_detections, read_truth
from dip_env.metrics.intervals import Interval
from dip_env.metrics.protocols.coco import measure_coco
from dip_env.metrics.unscored import measure_unscored
from dip_wrappers.traces import load_traces, replay

CONFIG = EpisodeConfig()


def say(text):
    return CallablePolicy(lambda transcript: text)


class Counting:
    """Answers scene 0 perfectly in its first group member and notes what it was asked."""

    def __init__(self):
        self.sizes = []
        self.seeds = []

    def act(self, observations, seeds):
        self.sizes.append(len(observations))
        self.seeds += seeds
        return [
            Completion("<look>[[0,0,50,50]]</look>" if o.turn == 0 else "<answer>[]</answer>")
            for o in observations
        ]


def test_pooled_metrics_by_hand():
    # Toy scene 0 holds people at (40,100,120,340), (280,140,340,320), (500,80,600,400) of 640x480,
    # seen in a view of 448x320: x by 0.7, y by 2/3. One is answered, one box is far off.
    # Scene 3 holds one person, which the same answer misses: 2 false positives.
    answer = "<answer>[[28,67,84,227],[200,10,210,20]]</answer>"
    result = evaluate(say(answer), ToyScenes(), [0, 3], CONFIG)
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert value["precision"] == pytest.approx(1 / 4)
    assert value["recall"] == pytest.approx(1 / 4)
    assert value["F1"] == pytest.approx(1 / 4)
    # Scene 0: F1 = 2*1/(2+3) = 0.4; scene 3: 0.
    assert value["accuracy"] == pytest.approx(0.2)
    assert value["reward"] == pytest.approx(CONFIG.reward.accuracy_weight * 0.2)
    assert value["format"] == value["look"] == value["looks_per_episode"] == 0
    assert value["boxes_per_truth"] == pytest.approx(4 / 4)
    # One box of two is one too few for three people, one too many for one.
    assert value["count_mae"] == pytest.approx((1 + 1) / 2)
    assert value["duplicates_per_answer"] == 0
    # R = 1/4 at every IoU up to that of the pair; 26 recall points at P = 1/4.
    assert value["AP50_tied"] == pytest.approx(0.25 * 26 / 101)
    assert result.score.unscored.tp[0].tolist() == [1, 0]
    assert result.n == 2


def test_every_rollout_is_an_answer_of_its_own_and_the_first_is_written(tmp_path):
    # Scene 3 holds one person of 6 x 15 pixels; one rollout of three finds it, the others say 2.
    hit = "<answer>[[217.7,133.33,221.9,143.33]]</answer>"
    miss = "<answer>[[0,0,9,9],[20,0,29,9]]</answer>"
    texts = iter([hit, miss, miss])
    policy = CallablePolicy(lambda transcript: next(texts))
    result = evaluate(policy, ToyScenes(), [3], CONFIG, group_size=3, out=tmp_path)
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert value["precision"] == pytest.approx(1 / 5)
    assert value["recall"] == pytest.approx(1 / 3)
    assert value["JI"] == pytest.approx(1 / 3, abs=1e-6)  # mean of 1, 0, 0
    assert value["count_mae"] == pytest.approx(2 / 3)
    assert value["boxes_per_truth"] == pytest.approx(5 / 3)
    assert result.score.counters["boxes"].tolist() == [5]
    written = json.loads((tmp_path / "detections.json").read_text())
    assert [row["bbox"] for row in written] == [pytest.approx([311, 200, 6, 15], abs=0.01)]


def test_rollouts_of_a_scene_are_resampled_together():
    # Each scene has a rollout that finds one of three and one that finds nobody: every sample of
    # scenes has the same recall, samples of rollouts would not.
    texts = iter(["<answer>[]</answer>", "<answer>[[28,67,84,227]]</answer>"] * 3)
    same = [ToyScenes()[0]] * 3
    policy = CallablePolicy(lambda transcript: next(texts))
    recall = evaluate(policy, same, range(3), CONFIG, group_size=2).metrics["recall"]
    assert (recall.value, recall.low, recall.high) == pytest.approx((1 / 6,) * 3)


def test_malformed_turns_are_counted_per_episode():
    result = evaluate(say("no idea"), ToyScenes(), [0, 1], CONFIG)
    assert result.metrics["parse_failures"].value == CONFIG.max_turns
    assert result.metrics["recall"].value == 0


def test_what_cannot_be_defined_is_null_with_a_reason(tmp_path):
    result = evaluate(say("<answer>[]</answer>"), ToyScenes(), [2], CONFIG, out=tmp_path)
    reason = "no box was predicted that counts"
    assert result.metrics["precision"] == Interval(None, None, None, reason)
    assert result.metrics["recall"].reason == "there was nobody to find"
    assert result.metrics["accuracy"].value == 1.0
    assert result.metrics["accuracy"].low is None  # one scene has no spread
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    loaded = json.loads(text)
    assert loaded["precision"] is None
    assert loaded["undefined"]["precision"] == reason
    assert loaded["intervals"]["accuracy"] == [None, None]


def test_metrics_file_has_every_metric_with_its_interval(tmp_path):
    policy = OraclePolicy(ToyScenes(), CONFIG, OracleConfig(miss_rate=0.3))
    evaluate(policy, ToyScenes(), range(4), CONFIG, out=tmp_path)
    loaded = json.loads((tmp_path / "metrics.json").read_text())
    names = (
        "precision recall F1 mean_iou JI AP_tied AP50_tied AP75_tied count_mae "
        "duplicates_per_answer reward format look accuracy looks_per_episode boxes_per_truth "
        "parse_failures truncated_turns truncated_share failed_turns regions_per_episode "
        "look_coverage look_coverage_random look_coverage_oracle look_area"
    )
    assert set(METRICS) == {*names.split(), "AP", "AP50"}
    for name in names.split():
        low, high = loaded["intervals"][name]
        assert low <= loaded[name] <= high
    # One of the four scenes holds nobody: drawn four times, 1 in 256, it defines no recall.
    assert 0 < loaded["samples_left_out"]["recall"] < 20
    assert loaded["counts"]["tp"] + loaded["counts"]["fn"] == 6
    assert loaded["n"] == 4
    assert loaded["look_reference"] == "prior"


def test_turns_that_a_limit_of_tokens_cut_are_counted():
    class Talker:
        def act(self, observations, seeds):
            return [Completion("<think>an", truncated=o.turn == 0) for o in observations]

    rules = replace(CONFIG, max_turns=3)
    result = evaluate(Talker(), ToyScenes(), range(4), rules)
    assert result.metrics["truncated_turns"].value == 1
    assert result.metrics["truncated_share"].value == 1 / 3
    assert result.metrics["parse_failures"].value == 3


def test_failed_turns_are_counted_by_their_reason_and_the_rest_goes_on(tmp_path):
    class Odd:
        def act(self, observations, seeds):
            failed = [o.scene_index == 2 and o.turn == 0 for o in observations]
            return [
                Completion("", failed="no JSON") if f else Completion("<answer>[]</answer>")
                for f in failed
            ]

    result = evaluate(Odd(), ToyScenes(), range(4), CONFIG, out=tmp_path)
    assert result.score.counters["failed_turns"].tolist() == [0, 0, 1, 0]
    assert result.score.counters["turns"].tolist() == [1, 1, 2, 1]
    assert result.metrics["failed_turns"].value == 1 / 4
    assert result.metrics["truncated_turns"].value == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["failures"] == {"no JSON": 1}
    assert load_evaluation(tmp_path).failures == {"no JSON": 1}


def test_groups_of_three_read_their_siblings():
    for size, reference in ((1, "prior"), (2, "prior"), (3, "siblings")):
        policy = OraclePolicy(ToyScenes(), CONFIG, OracleConfig(miss_rate=0.5))
        result = evaluate(policy, ToyScenes(), [0, 1], CONFIG, group_size=size)
        assert result.look_reference == reference
        assert result.score.counters["episodes"].tolist() == [size, size]
    # Siblings that agree leave nothing ambiguous; the prior would have rewarded these looks.
    same = evaluate(OraclePolicy(ToyScenes(), CONFIG), ToyScenes(), [1], CONFIG, group_size=3)
    alone = evaluate(OraclePolicy(ToyScenes(), CONFIG), ToyScenes(), [1], CONFIG)
    assert same.metrics["look"].value == 0
    assert alone.metrics["look"].value > 0


def test_coco_files_score_the_same_as_the_metrics(tmp_path, capsys):
    source = ToyScenes()
    evaluate(
        OraclePolicy(source, CONFIG, OracleConfig(decimals=2)),
        source,
        range(4),
        CONFIG,
        out=tmp_path,
    )
    truth = COCO(str(tmp_path / "truth.json"))
    annotations = truth.loadAnns(truth.getAnnIds())
    assert [a["id"] for a in annotations] == list(range(1, 8))
    assert sum(a["iscrowd"] for a in annotations) == 1
    assert annotations[3]["vis_bbox"] == [100, 120, 50, 300]  # half hidden
    assert annotations[3]["bbox"] == [100, 120, 100, 300]
    found = truth.loadRes(str(tmp_path / "detections.json"))
    assert {d["score"] for d in found.loadAnns(found.getAnnIds())} == {1.0}
    scorer = COCOeval(truth, found, "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    capsys.readouterr()
    assert scorer.stats[1] == pytest.approx(1.0)  # AP at IoU .5 of a perfect oracle


def test_scores_the_policy_gave_are_kept(tmp_path):
    text = '<answer>[{"bbox_2d":[28,67,84,227],"score":0.25},[200,10,210,20]]</answer>'
    result = evaluate(say(text), ToyScenes(), [0], CONFIG, out=tmp_path)
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert [d["score"] for d in detections] == [0.25, 1.0]
    assert detections[0]["image_id"] == 1
    # 28/0.7, 67*1.5, 56/0.7, 160*1.5
    assert detections[0]["bbox"] == pytest.approx([40, 100.5, 80, 240])
    # One box without a score is enough: its rank would be made up.
    assert result.metrics["AP"].reason == "1 of 2 boxes carry no score"


def test_coco_ap_is_measured_where_every_box_has_a_score(tmp_path, capsys):
    # One of three people, ranked behind a false positive: P = 1/2 up to recall 1/3, 34 points.
    text = (
        '<answer>[{"bbox_2d":[28,67,84,227],"score":0.25},'
        '{"bbox_2d":[200,10,210,20],"score":0.5}]</answer>'
    )
    result = evaluate(say(text), ToyScenes(), [0], CONFIG, out=tmp_path)
    assert result.metrics["AP50"].value == pytest.approx(0.5 * 34 / 101)
    truth = COCO(str(tmp_path / "truth.json"))
    scorer = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    capsys.readouterr()
    assert scorer.stats[:2] == pytest.approx([result.metrics[name].value for name in RANKED])


@pytest.mark.parametrize("scored", [False, True])
def test_the_files_score_the_same_as_the_metrics(tmp_path, scored):
    # Boxes at random, outside the image, without area, inverted and of nine digits.
    rng = np.random.default_rng(0)

    def act(transcript):
        boxes = np.round(rng.uniform(-40, 460, (12, 4)))
        boxes[0], boxes[1], boxes[2] = (28, 67, 84, 227), (28, 67, 84, 220), (5, 5, 5, 9)
        boxes[3] = (-999999999, -999999999, 999999999, 999999999)
        scores = rng.integers(0, 101, 12) / 100 if scored else None
        return grammar.format([Answer(boxes, scores=() if scores is None else tuple(scores))])

    grammar = Grammar(CONFIG.max_regions, CONFIG.max_boxes)
    evaluate(CallablePolicy(act), ToyScenes(), range(4), CONFIG, out=tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert len(detections) == 4 * 12  # none is left out
    truth = read_truth(tmp_path / "truth.json")
    found = read_detections(tmp_path / "detections.json", truth)
    values = measure_unscored(truth, found).values()
    assert {name: metrics[name] for name in MATCHED} == {name: values[name] for name in MATCHED}
    assert metrics["counts"] == {name: values[name] for name in ("tp", "fp", "fn", "dropped")}
    assert 0 < metrics["F1"] < 1
    ranked = measure_coco(truth, found).values() if scored else dict.fromkeys(RANKED)
    assert {name: metrics[name] for name in RANKED} == {name: ranked[name] for name in RANKED}


def test_two_scenes_with_one_image_id_are_an_error():
    scenes = [replace(ToyScenes()[k], notes={"image_id": 7}) for k in (0, 1)]
    with pytest.raises(
        SceneError, match=r"scene toy-1 \(index 1\): .* got 7, the id of scene toy-0"
    ):
        evaluate(say("<answer>[]</answer>"), scenes, [0, 1], CONFIG)


def test_traces_hold_every_member_and_replay(tmp_path):
    source = ToyScenes()
    policy = OraclePolicy(source, CONFIG, OracleConfig(miss_rate=0.5))
    evaluate(policy, source, [0, 1], CONFIG, group_size=3, out=tmp_path)
    traces = load_traces(tmp_path / "traces")
    assert [(t.scene_index, t.member) for t in traces] == [(i, m) for i in (0, 1) for m in range(3)]
    assert len({t.group for t in traces}) == 2
    for trace in traces:
        assert trace.source == "ToyScenes()"
        assert replay(trace, source).done


def test_batches_are_bounded_hold_only_unfinished_and_seeds_never_repeat():
    policy = Counting()
    evaluate(policy, ToyScenes(), range(4), CONFIG, group_size=2, batch_size=3)
    # One group of two at a time, two turns each.
    assert policy.sizes == [2] * 8
    assert len(set(policy.seeds)) == 16
    wide = Counting()
    evaluate(wide, ToyScenes(), range(4), CONFIG, batch_size=100)
    assert wide.sizes == [4, 4]


def test_results_do_not_depend_on_the_batch_size():
    source = ToyScenes()
    results = [
        evaluate(RandomPolicy(CONFIG), source, range(4), CONFIG, group_size=2, batch_size=b)
        for b in (1, 3, 8)
    ]
    for result in results[1:]:
        assert result.metrics == results[0].metrics
        for name in COUNTERS:
            one, other = (r.score.counters[name] for r in (result, results[0]))
            np.testing.assert_array_equal(one, other)


def test_a_policy_that_skips_someone_is_named():
    class Short:
        def act(self, observations, seeds):
            return []

    group = EpisodeGroup(ToyScenes()[0], CONFIG, 2, scene_index=0)
    with pytest.raises(ConfigError, match="expected 2 completions, got 0"):
        play(Short(), [group], batch_size=4, seed=0)


def test_repeated_scenes_are_refused():
    with pytest.raises(ConfigError, match=r"indices: .* at most once, got 1 2 times"):
        evaluate(say(""), ToyScenes(), [1, 1], CONFIG)


@pytest.mark.parametrize(
    ("indices", "sizes", "message"),
    [
        ([], {}, "indices: expected at least one scene, got none"),
        ([0], {"group_size": 0}, "group_size: expected at least 1, got 0"),
        ([0], {"batch_size": -1}, "batch_size: expected at least 1, got -1"),
    ],
)
def test_what_cannot_be_evaluated_is_named(indices, sizes, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(say(""), ToyScenes(), indices, CONFIG, **sizes)


def test_paired_gain_of_an_evaluation_with_itself_is_exactly_zero():
    source = ToyScenes()
    policy = OraclePolicy(source, CONFIG, OracleConfig(miss_rate=0.5, false_positive_rate=0.5))
    result = evaluate(policy, source, range(4), CONFIG)
    for name, gain in paired_gain(result, result).items():
        expected = None if name in RANKED else 0
        assert (gain.value, gain.low, gain.high) == (expected,) * 3, name


def test_paired_gain_needs_the_same_scenes():
    source = ToyScenes()
    one = evaluate(say("<answer>[]</answer>"), source, [0, 1], CONFIG)
    other = evaluate(say("<answer>[]</answer>"), source, [1, 0], CONFIG)
    with pytest.raises(ConfigError, match="same scenes"):
        paired_gain(one, other)


def test_the_table_names_every_metric_and_the_gain():
    source = ToyScenes()
    before = evaluate(say("<answer>[]</answer>"), source, range(4), CONFIG)
    after = evaluate(OraclePolicy(source, CONFIG), source, range(4), CONFIG)
    out = io.StringIO()
    print_results({"before": before, "after": after}, Console(file=out, width=200))
    text = out.getvalue()
    assert all(name in text for name in METRICS)
    assert "after - before, paired" in text
    assert "before: precision undefined: no box was predicted that counts" in text
    assert "after: AP, AP50 undefined: 6 of 6 boxes carry no score" in text
    assert format_interval(Interval(None, None, None, "nobody")) == "-"
    assert format_interval(Interval(0.5, 0.25, 0.75), sign=True) == "+0.500 [+0.250, +0.750]"


def test_progress_is_reported_after_each_batch():
    told = []
    evaluate(
        say("<answer>[]</answer>"),
        ToyScenes(),
        range(4),
        replace(CONFIG, reward=RewardConfig(look_weight=0)),
        batch_size=2,
        on_batch=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 4), (4, 4)]


def test_workers_change_nothing(toy):
    config = EpisodeConfig()
    found = [
        evaluate(OraclePolicy(toy, config), toy, range(4), config, workers=workers).to_json()
        for workers in (0, 1)
    ]
    assert found[0] == found[1]
