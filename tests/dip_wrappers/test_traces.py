import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from PIL import Image

from dip_env import DIPCrowdEnv, Episode, EpisodeConfig, EpisodeGroup, RewardConfig, ToyScenes
from dip_wrappers.controls import blank_crops
from dip_wrappers.trace_writer import to_json
from dip_wrappers.traces import (
    EpisodeTrace,
    GroupRecorder,
    ReplayMismatchError,
    TornTraceWarning,
    TraceError,
    TraceWriter,
    describe_source,
    load_traces,
    replay,
    rescore,
)

LOOK = "<think>a</think><look>[[100,60,200,280],[10.5,10,90,90]]</look>"
# The right person of toy scene 1 as seen in the view of 448 x 320, and a box on nobody.
ANSWER = "<answer>[[105,80,175,280],[200,10,210,20]]</answer>"
RULES = {"format_weight": 0.5, "look_weight": 0.3, "accuracy": "weighted_sum"}
OTHER = RewardConfig(**RULES)


def record(folder, actions=(LOOK, "nonsense", ANSWER), scene=1, **rules):
    env = EpisodeTrace(DIPCrowdEnv(ToyScenes(), **rules), folder)
    env.reset(seed=7, options={"scene": scene})
    total = sum(float(env.step(action)[1]) for action in actions)
    env.close()
    return total


def record_group(folder, answers, size=3, config=None):
    config = config or EpisodeConfig()
    group = EpisodeGroup(ToyScenes()[1], config, size, scene_index=1)
    with TraceWriter(folder, "toy") as writer:
        recorder = GroupRecorder(writer, group, seed=5)
        actions = [None if a is None else LOOK for a in answers]
        recorder.step(actions, group.step(actions))
        turns = group.step(list(answers))
        recorder.step(answers, turns)
    return [turn.reward for turn in turns], group


def test_a_trace_holds_everything_about_its_episode(tmp_path):
    reward = record(tmp_path, crop_size=192)
    (trace,) = load_traces(tmp_path)
    assert trace.ended
    assert (trace.scene_id, trace.scene_index, trace.seed) == ("toy-1", 1, 7)
    assert trace.source == "ToyScenes()"
    assert trace.config == EpisodeConfig(crop_size=192)
    assert trace.reward == reward > 0
    assert set(trace.terms) == {"format", "look", "accuracy"}
    assert [turn.action for turn in trace.turns] == [LOOK, "nonsense", ANSWER]
    assert [len(turn.crops) for turn in trace.turns] == [2, 0, 0]
    assert "Crop 1 shows" in trace.turns[0].message
    assert trace.turns[2].message is None
    assert trace.turns[1].info["parse_error"]
    assert trace.turns[2].info["reward_terms"] == trace.terms
    assert [turn.terminated for turn in trace.turns] == [False, False, True]
    assert trace.prompt.startswith("Find every person")


def test_images_on_disk_are_the_pixels_the_policy_saw(tmp_path):
    record(tmp_path)
    (trace,) = load_traces(tmp_path)
    episode = Episode(ToyScenes()[1], EpisodeConfig())
    crops = episode.step(LOOK).crops
    np.testing.assert_array_equal(trace.image(trace.overview), episode.opening.images[0])
    for name, region, crop in zip(trace.turns[0].crops, trace.turns[0].regions, crops, strict=True):
        np.testing.assert_array_equal(trace.image(name), crop.image)
        assert region == tuple(crop.region.tolist())


def test_one_line_per_turn_and_one_for_each_end(tmp_path):
    record(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "turns-0000.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "turn", "turn", "turn", "end"]
    assert len({line["episode"] for line in lines}) == 1


def test_no_truth_is_written_before_the_end(tmp_path):
    record(tmp_path, actions=(LOOK,))
    text = (tmp_path / "turns-0000.jsonl").read_text()
    assert "truth" not in text
    (trace,) = load_traces(tmp_path)
    assert not trace.ended
    assert trace.reward is None
    with pytest.raises(TraceError, match="never ended"):
        rescore([trace], OTHER)
    assert replay(trace, ToyScenes()).turn == 1


def test_the_wrapper_changes_nothing_it_passes_on(tmp_path):
    plain, traced = (DIPCrowdEnv(ToyScenes()) for _ in range(2))
    traced = EpisodeTrace(traced, tmp_path)
    for env in (plain, traced):
        env.reset(seed=3)
    assert traced.observation_space == plain.observation_space
    for action in (LOOK, ANSWER):
        one, two = plain.step(action), traced.step(action)
        assert one[1:4] == two[1:4]
        np.testing.assert_array_equal(one[0]["crops"], two[0]["crops"])
        assert one[4].keys() == two[4].keys()


@pytest.mark.parametrize("action", ["\ud800 lone \x00 zero \u2028 line", "é 群 \n\r\t", ""])
def test_any_text_comes_back_from_disk(tmp_path, action):
    record(tmp_path, actions=(action, ANSWER))
    (trace,) = load_traces(tmp_path)
    assert trace.turns[0].action == action
    replay(trace, ToyScenes())


def test_replay_gives_the_same_episode(tmp_path):
    record(tmp_path)
    (trace,) = load_traces(tmp_path)
    episode = replay(trace, ToyScenes())
    assert episode.done
    assert len(episode.outcome.answer) == 2


def test_replay_names_the_crop_that_differs(tmp_path):
    record(tmp_path)
    (trace,) = load_traces(tmp_path)
    path = tmp_path / trace.turns[0].crops[1]
    pixels = np.asarray(Image.open(path)).copy()
    pixels[3, 5] ^= 1
    Image.fromarray(pixels).save(path)
    with pytest.raises(ReplayMismatchError, match=r"turn 0: crop 1: 1 of \d+ pixels.* x=5, y=3"):
        replay(trace, ToyScenes())


def test_an_image_of_a_trace_is_a_png_in_its_folder(tmp_path):
    record(tmp_path / "run")
    (trace,) = load_traces(tmp_path / "run")
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    for name in ("../other.png", str(tmp_path / "other.png"), "images/none.png"):
        with pytest.raises(TraceError, match="expected an image of episode"):
            trace.image(name)
    path = tmp_path / "run" / trace.overview
    for content in (b"", b"%!PS-Adobe-3.0 EPSF-3.0", path.read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(TraceError, match=r"\.png: expected a PNG image, got"):
            trace.image(trace.overview)


def test_replay_names_other_differences(tmp_path):
    record(tmp_path)
    (trace,) = load_traces(tmp_path)
    for change, message in (
        ({"scene_id": "elsewhere"}, "scene id: recorded 'elsewhere', played 'toy-1'"),
        ({"scene_index": 0}, "scene id"),
        ({"config": EpisodeConfig(view_size=320)}, "prompt"),
        ({"overview": trace.turns[0].crops[0]}, "overview: recorded"),
        ({"turns": (replace(trace.turns[0], message="hi"),)}, "turn 0: message: recorded 'hi'"),
        ({"turns": (replace(trace.turns[0], crops=()),)}, "turn 0: number of crops"),
        ({"turns": (*trace.turns[:2], replace(trace.turns[2], reward=9.0))}, "turn 2: reward"),
    ):
        with pytest.raises(ReplayMismatchError, match=message):
            replay(replace(trace, **change), ToyScenes())
    with pytest.raises(TraceError, match="expected a scene index"):
        replay(replace(trace, scene_index=None), ToyScenes())
    with pytest.raises(TraceError, match="found no file"):
        replay(replace(trace, overview="images/gone.png"), ToyScenes())


@pytest.mark.parametrize("source", [None, ToyScenes()])
def test_rescoring_under_the_same_reward_changes_nothing(tmp_path, source):
    for scene in range(4):
        record(tmp_path, scene=scene)
    for result in rescore(load_traces(tmp_path), RewardConfig(), source):
        assert result.reward == result.trace.reward
        assert result.terms.as_dict() == result.trace.terms


@pytest.mark.parametrize("source", [None, ToyScenes()])
def test_rescoring_equals_playing_under_the_other_reward(tmp_path, source):
    record(tmp_path / "default")
    record(tmp_path / "other", **RULES)
    (result,) = rescore(load_traces(tmp_path / "default"), OTHER, source)
    (played,) = load_traces(tmp_path / "other")
    assert result.reward == played.reward
    assert result.reward != result.trace.reward


def test_groups_are_rescored_with_their_siblings(tmp_path):
    empty = "<answer>[]</answer>"
    rewards, _ = record_group(tmp_path / "a", [ANSWER, empty, ANSWER])
    traces = load_traces(tmp_path / "a")
    assert [trace.member for trace in traces] == [0, 1, 2]
    assert {trace.group_size for trace in traces} == {3}
    # Member 1 is alone in its answer: its siblings agree, so it alone sees nothing ambiguous.
    assert [trace.terms["look"] > 0 for trace in traces] == [True, False, True]
    results = rescore(traces, RewardConfig())
    assert [r.reward for r in results] == rewards
    shuffled = rescore([traces[2], traces[0], traces[1]], RewardConfig())
    assert [r.reward for r in shuffled] == [rewards[2], rewards[0], rewards[1]]
    other, _ = record_group(
        tmp_path / "b", [ANSWER, empty, ANSWER], config=EpisodeConfig(reward=OTHER)
    )
    assert [r.reward for r in rescore(traces, OTHER)] == other
    for trace in traces:
        assert replay(trace, ToyScenes()).done


def test_a_group_with_a_member_missing_is_refused(tmp_path):
    record_group(tmp_path, [ANSWER] * 3)
    with pytest.raises(TraceError, match="expected 3 members, got 2"):
        rescore(load_traces(tmp_path)[:2], OTHER)


def test_waiting_members_write_nothing_until_their_end(tmp_path):
    group = EpisodeGroup(ToyScenes()[0], EpisodeConfig(), 3, scene_index=0)
    with TraceWriter(tmp_path) as writer:
        recorder = GroupRecorder(writer, group)
        for actions in ([ANSWER, LOOK, LOOK], [None, ANSWER, ANSWER]):
            recorder.step(actions, group.step(actions))
    traces = load_traces(tmp_path)
    assert [len(trace.turns) for trace in traces] == [1, 2, 2]
    assert [trace.reward for trace in traces] == [
        terms.total(group.config.reward.weights) for terms in group.terms
    ]


def test_an_abandoned_member_is_recorded_and_rescored_with_its_group(tmp_path):
    group = EpisodeGroup(ToyScenes()[1], EpisodeConfig(), 3, scene_index=1)
    with TraceWriter(tmp_path) as writer:
        recorder = GroupRecorder(writer, group)
        actions = [LOOK, ANSWER, ANSWER]
        recorder.step(actions, group.step(actions))
        group.abandon(0)
        recorder.finish()
    traces = load_traces(tmp_path)
    assert all(trace.ended for trace in traces)
    assert [r.terms for r in rescore(traces, RewardConfig())] == group.terms


def test_writers_never_share_a_file(tmp_path):
    writers = [TraceWriter(tmp_path) for _ in range(3)]
    for number, writer in enumerate(writers):
        episode = Episode(ToyScenes()[number], EpisodeConfig(), scene_index=number)
        name = writer.start(episode)
        writer.turn(name, ANSWER, episode.step(ANSWER))
        writer.end(name, episode, 0.0, {})
    for writer in writers:
        writer.close()
    record(tmp_path, scene=3)
    assert [trace.scene_index for trace in load_traces(tmp_path)] == [0, 1, 2, 3]
    assert len({trace.episode for trace in load_traces(tmp_path)}) == 4


def test_every_line_is_on_disk_before_the_next_step(tmp_path):
    env = EpisodeTrace(DIPCrowdEnv(ToyScenes()), tmp_path)
    env.reset(options={"scene": 0})
    env.step(LOOK)
    # Not closed: what a kill would leave behind.
    (trace,) = load_traces(tmp_path)
    assert len(trace.turns) == 1
    env.close()


def test_a_cut_last_line_is_reported_and_the_rest_is_kept(tmp_path):
    record(tmp_path)
    path = tmp_path / "turns-0000.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    with pytest.warns(TornTraceWarning, match=r"turns-0000.jsonl:5: the last line was cut"):
        (trace,) = load_traces(tmp_path)
    assert len(trace.turns) == 3
    assert not trace.ended


@pytest.mark.parametrize("line", ["{oops", "[" * 200_000], ids=["oops", "deep"])
def test_a_broken_line_before_the_last_is_an_error(tmp_path, line):
    record(tmp_path)
    path = tmp_path / "turns-0000.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + f"{line}\n" + "".join(lines[2:]))
    with pytest.raises(TraceError, match=r"turns-0000.jsonl:2: expected one JSON object"):
        load_traces(tmp_path)
    path.write_text(lines[0] + '{"kind":"turn","episode":"0000-000000","turn":0}\n')
    with pytest.raises(TraceError, match=r"misses or mistypes a field.*crops"):
        load_traces(tmp_path)


def test_a_folder_without_traces_is_an_error(tmp_path):
    with pytest.raises(TraceError, match="found none"):
        load_traces(tmp_path)


def test_lines_hold_strict_json(tmp_path):
    assert to_json({"a": float("nan"), "b": np.float32("inf"), "c": (1, np.int64(2))}) == {
        "a": None,
        "b": None,
        "c": [1, 2],
    }
    record(tmp_path)

    def refuse(name):
        raise AssertionError(name)

    for line in (tmp_path / "turns-0000.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_a_time_limit_leaves_an_unfinished_trace_behind(tmp_path):
    env = EpisodeTrace(TimeLimit(DIPCrowdEnv(ToyScenes()), 1), tmp_path)
    env.reset(options={"scene": 0})
    assert env.step(LOOK)[3]
    env.reset(options={"scene": 1})
    env.step(ANSWER)
    env.close()
    first, second = load_traces(tmp_path)
    assert first.turns[0].truncated
    assert (first.ended, second.ended) == (False, True)


def test_it_goes_through_make_and_refuses_steps_before_reset(tmp_path):
    env = EpisodeTrace(gym.make("DIPCrowd-v0", scenes="toy"), tmp_path)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(ANSWER)
    env.reset(seed=0)
    env.step(ANSWER)
    env.close()
    assert load_traces(tmp_path)[0].ended


def test_sources_describe_themselves_without_addresses():
    class Named:
        def __repr__(self):
            return "Named(seed=3)"

    assert describe_source(Named()) == "Named(seed=3)"
    assert " at 0x" not in describe_source(ToyScenes())


def test_a_group_with_branches_and_blank_crops_is_recorded_as_it_was_shown(tmp_path):
    branches = np.array([0, 0, 1, 1])
    group = EpisodeGroup(
        ToyScenes()[1],
        EpisodeConfig(),
        4,
        scene_index=1,
        new_episode=[Episode, blank_crops().episode] * 2,
        siblings=branches[:, None] != branches,
    )
    with TraceWriter(tmp_path, "toy") as writer:
        recorder = GroupRecorder(writer, group)
        recorder.step([LOOK] * 4, group.step([LOOK] * 4))
        answers = [ANSWER, "<answer>[]</answer>", ANSWER, ANSWER]
        turns = group.step(answers)
        recorder.step(answers, turns)
    traces = load_traces(tmp_path)
    assert [trace.control for trace in traces] == [None, "crops blanked"] * 2
    assert [trace.siblings for trace in traces] == [(2, 3), (2, 3), (0, 1), (0, 1)]
    shown = [trace.image(trace.turns[0].crops[0]) for trace in traces]
    assert [bool((image == 128).all()) for image in shown] == [False, True] * 2
    # Scored again from any order, on the same siblings.
    again = rescore(traces[::-1], EpisodeConfig().reward)[::-1]
    assert [one.reward for one in again] == [turn.reward for turn in turns]
    replay(traces[1], ToyScenes(), blank_crops())
    with pytest.raises(ReplayMismatchError, match="crops blanked: turn 0: crop 0"):
        replay(traces[1], ToyScenes())
