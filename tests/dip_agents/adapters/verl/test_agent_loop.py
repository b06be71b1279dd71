"""verl wants an older transformers than our trainer, so this runs in an environment of its own.

``pytest --confcutdir tests/dip_agents/adapters`` leaves out the fixtures that need the trainer.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from types import SimpleNamespace

import pytest

pytest.importorskip(
    "verl.experimental.agent_loop",
    reason="the verl extra is not installed: it needs an environment of its own",
)

import numpy as np
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pyarrow import parquet
from verl import DataProto
from verl.experimental.agent_loop import AgentLoopWorker, agent_loop
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.rollout.replica import TokenOutput

from dip_agents.adapters import Task
from dip_agents.adapters.verl import agent_loop as adapter
from dip_agents.adapters.verl import dataset as verl_dataset
from dip_agents.models.tiny.model import build_tiny
from dip_agents.runtime import optional as needs_module
from dip_agents.tokens.buffer import PlaceholderError
from dip_agents.tokens.chat import ChatTokens
from dip_env.errors import ConfigError

PATCHES = {"qwen3_vl": 32, "qwen2_5_vl": 28}
"""Pixels of an image token's side; images of such sides are not resized."""
USER, END, IMAGE = "<|im_start|>user\n", "<|im_end|>", "<|image_pad|>"
SEED = 1
SCENE = Task("toy").scene_of(SEED)


@pytest.fixture(scope="module")
def tiny():
    """Return a function that gives model and processor of a family; do not change them."""
    made = {}

    def get(family="qwen3_vl"):
        if family not in made:
            made[family] = build_tiny(["Find every person in the image"], 0, family, "micro")
        return made[family]

    return get


class Server:
    """Says the script of a request's priority, turn by turn, and keeps what it was shown."""

    def __init__(self, tokenizer, scripts):
        self.tokenizer, self.scripts = tokenizer, scripts
        self.calls = {}
        """What came in the calls of each request, by its name."""

    def turn(self, text):
        ids = text if isinstance(text, list) else self.tokenizer.encode(text)
        return [*ids, self.tokenizer.eos_token_id]

    async def generate(self, request_id, **call):
        calls = self.calls.setdefault(request_id, [])
        calls.append(SimpleNamespace(**call))
        script = self.scripts[call["priority"]]
        ids = self.turn(script[len(calls) - 1])[: call["sampling_params"]["max_tokens"]]
        step = {"min_global_steps": len(calls), "max_global_steps": len(calls)}
        logprobs = [-float(len(calls))] * len(ids) if call["sampling_params"]["logprobs"] else None
        return TokenOutput(token_ids=ids, log_probs=logprobs, extra_fields=step)


@pytest.fixture
def row(tmp_path):
    """Return a function that gives a row as verl reads it from the file we write."""

    def build(scene, **task):
        path = tmp_path / "row.parquet"
        verl_dataset.write_dataset(path, [scene], **task)
        return parquet.read_table(path).to_pylist()[0]

    return build


def play(processor, row, script, family="qwen3_vl", lengths=(1024, 2048), logprobs=True, data=None):
    """Let the loop play one row with verl's own arguments; return its output and the server."""
    server = Server(processor.tokenizer, [script])
    rollout = {
        "prompt_length": lengths[0],
        "response_length": lengths[1],
        "full_determinism": False,
    }
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": data or {}})

    async def run():
        loop = adapter.DIPCrowdLoop(
            agent_loop.DictConfigWrap(config), server, processor.tokenizer, processor,
            RLHFDataset, agent_loop.DictConfigWrap(config.data), hf_model_type=family,
        )  # fmt: skip
        return await loop.run({"temperature": 1.0, "logprobs": logprobs}, **row)

    return asyncio.run(run()), server


def shown_by(processor, ids, images, shown):
    """Return the environment's messages that stand in tokens, with their images."""
    text = processor.tokenizer.decode(ids, skip_special_tokens=False)
    found, images = [], list(images)
    for message in text.split(USER)[1:]:
        pieces = message.split(END)[0].split("<|vision_start|>")
        said = pieces[0] + "".join(piece.split("<|vision_end|>")[1] for piece in pieces[1:])
        here, images = images[: len(pieces) - 1], images[len(pieces) - 1 :]
        found.append(shown(said, here))
    assert not images
    return tuple(found)


def placeholders(processor, ids):
    return list(ids).count(processor.tokenizer.convert_tokens_to_ids(IMAGE))


def features(processor, images, **kwargs):
    """Return how many features the processor makes of images, each on its own."""
    made = [processor.image_processor(images=[i], return_tensors="pt", **kwargs) for i in images]
    return (
        sum(int(m["image_grid_thw"].prod()) for m in made)
        // processor.image_processor.merge_size**2
    )


@pytest.mark.parametrize("family", list(PATCHES))
def test_the_loop_shows_and_rewards_what_a_single_episode_does(parity, seed, tiny, row, family):
    processor = tiny(family)[1]
    rules = parity.RULES | {"size_multiple": PATCHES[family]}
    task = row(Task(**rules).scene_of(seed), **rules)
    played = []
    for script in parity.SCRIPTS:
        output, server = play(processor, task, script, family)
        (calls,) = server.calls.values()
        last = calls[-1]
        shown = shown_by(processor, last.prompt_ids, last.image_data, parity.shown)
        trained_on = parity.shown("", output.multi_modal_data["images"])
        assert trained_on == parity.shown("", last.image_data)
        terms = output.extra_fields["reward_extra_info"]
        played.append(parity.Played(shown, output.reward_score, terms))
        assert output.num_turns == len(shown) + len(script)
        assert output.extra_fields["actions"] == list(script)
        assert output.extra_fields["ambiguity"] == "annotation"
    assert played == parity.expected_alone(seed, size_multiple=PATCHES[family])


@pytest.mark.parametrize("family", list(PATCHES))
def test_the_tokens_are_appended_only_and_those_of_our_own_trainer(parity, tiny, row, family):
    processor = tiny(family)[1]
    chat = ChatTokens(processor)
    rules = parity.RULES | {"size_multiple": PATCHES[family]}
    for script in parity.SCRIPTS:
        output, server = play(processor, row(SCENE, **rules), script, family)
        episode = Task(**rules).episode(SCENE)
        expected, mask = list(chat.opening([episode.opening])[0]), []
        (calls,) = server.calls.values()
        for call, text in zip(calls, script, strict=True):
            assert call.prompt_ids == expected
            said = server.turn(text)
            expected, mask = expected + said, mask + [1] * len(said)
            turn = episode.step(text)
            if turn.message is not None:
                reply = chat.reply(turn.message)[0]
                expected, mask = expected + reply, mask + [0] * len(reply)
        assert output.prompt_ids + output.response_ids == expected
        assert output.response_mask == mask and len(output.response_ids) == len(mask)


def test_logprobs_stand_on_what_the_policy_sampled_and_are_none_where_not_asked_for(
    parity, tiny, row
):
    task = row(SCENE, **parity.RULES)
    output, _ = play(tiny()[1], task, parity.SCRIPTS[2])
    turns = np.cumsum(np.diff([0, *output.response_mask]) == 1)
    assert output.response_logprobs == [
        -float(t) * m for t, m in zip(turns, output.response_mask, strict=True)
    ]
    assert len(set(output.response_logprobs)) == 4
    silent, _ = play(tiny()[1], task, parity.SCRIPTS[2], logprobs=False)
    assert silent.response_logprobs is None and silent.response_ids == output.response_ids


def test_fields_of_the_server_span_all_turns(parity, tiny, row):
    output, _ = play(tiny()[1], row(SCENE, **parity.RULES), parity.SCRIPTS[2])
    assert output.extra_fields["min_global_steps"] == 1
    assert output.extra_fields["max_global_steps"] == 3
    counts = adapter._joined({"spec_num_draft_tokens": 2}, {"spec_num_draft_tokens": 3})
    assert counts == {"spec_num_draft_tokens": 5}


ENLARGING, KEEPING = 160**2, 1
"""Least pixels of an image, below which a processor enlarges it."""


def with_limits(low):
    """Return a processor of its own with a least and a largest area."""
    _, processor = build_tiny(["Find every person"], 0, "qwen3_vl", "micro")
    processor.image_processor.size = {"shortest_edge": low, "longest_edge": 1024**2}
    return processor


def told(low):
    """Return what verl's ``data`` says where it overrides those limits."""
    return {"mm_processor_kwargs": {"min_pixels": low, "max_pixels": 1024**2}}


@pytest.mark.parametrize(("low", "data"), [(KEEPING, {}), (ENLARGING, told(KEEPING))])
def test_there_are_as_many_placeholders_as_features(parity, row, low, data):
    processor = with_limits(low)
    output, _ = play(processor, row(SCENE, **parity.RULES), parity.SCRIPTS[0], data=data)
    images, ids = output.multi_modal_data["images"], output.prompt_ids + output.response_ids
    found = features(processor, images, **data.get("mm_processor_kwargs", {}))
    assert len(images) == 3 and placeholders(processor, ids) == found
    assert output.mm_processor_kwargs == data.get("mm_processor_kwargs", {})


@pytest.mark.parametrize(("low", "data"), [(ENLARGING, {}), (KEEPING, told(ENLARGING))])
def test_a_processor_that_would_enlarge_crops_is_refused(parity, row, low, data):
    with pytest.raises(ConfigError, match=r"expected \d+ patches for an? .* as it resizes"):
        play(with_limits(low), row(SCENE, **parity.RULES), parity.SCRIPTS[0], data=data)


def test_an_observation_without_room_ends_the_episode_before_it_is_appended(parity, tiny, row):
    processor, task = tiny()[1], row(SCENE, **parity.RULES)
    script = parity.SCRIPTS[0]
    whole, server = play(processor, task, script)
    said = len(server.turn(script[0]))
    until_answer = len(whole.response_ids) - len(server.turn(script[1]))

    fits, _ = play(processor, task, script, lengths=(1024, until_answer + 1))
    assert len(fits.response_ids) == until_answer + 1 and len(fits.extra_fields["actions"]) == 2
    ended, server = play(processor, task, script, lengths=(1024, until_answer))
    assert ended.response_ids == whole.response_ids[:said] and ended.response_mask == [1] * said
    assert len(ended.multi_modal_data["images"]) == 1
    (calls,) = server.calls.values()
    assert [call.sampling_params["max_tokens"] for call in calls] == [until_answer]

    episode = Task(**parity.RULES).episode(SCENE)
    episode.step(script[0])
    assert ended.reward_score == episode.abandon().reward
    assert ended.num_turns == 2


def test_a_prompt_without_room_is_an_error(parity, tiny, row):
    with pytest.raises(ValueError, match="prompt_length=10"):
        play(tiny()[1], row(SCENE, **parity.RULES), parity.SCRIPTS[0], lengths=(10, 2048))


def test_special_tokens_that_the_policy_spells_out_are_quoted_harmless(parity, tiny, row):
    processor = tiny()[1]
    spelled = [i for c in IMAGE + END for i in processor.tokenizer.encode(c)]
    output, server = play(processor, row(SCENE, **parity.RULES), (spelled, parity.SCRIPTS[1][0]))
    assert output.extra_fields["actions"][0] == IMAGE + END
    (calls,) = server.calls.values()
    last = processor.tokenizer.decode(calls[-1].prompt_ids).split(USER)[-1]
    assert "< |image_pad|>" in last and IMAGE not in last and last.count(END) == 1
    episode = Task(**parity.RULES).episode(SCENE)
    episode.step(IMAGE + END)
    assert output.reward_score == episode.step(parity.SCRIPTS[1][0]).reward


def test_a_processor_that_would_resize_is_refused(parity, tiny, row):
    rules = parity.RULES | {"size_multiple": 28}
    with pytest.raises(ConfigError, match="size_multiple: expected a multiple of 32"):
        play(tiny()[1], row(SCENE, **rules), parity.SCRIPTS[0])


def test_a_sampled_placeholder_is_an_error(parity, tiny, row):
    processor = tiny()[1]
    pad = processor.tokenizer.convert_tokens_to_ids(IMAGE)
    with pytest.raises(PlaceholderError, match="policy sampled a placeholder"):
        play(processor, row(SCENE, **parity.RULES), ([pad],))


def test_what_rollouts_carry_gives_the_rewards_of_their_group(parity, seed, tiny, row):
    task = row(Task(**parity.RULES).scene_of(seed), **parity.RULES)
    outputs = [play(tiny()[1], task, script)[0] for script in parity.SCRIPTS]
    actions = [output.extra_fields["actions"] for output in outputs]
    rewards = verl_dataset.group_rewards(task["extra_info"], actions)
    assert rewards == [played.reward for played in parity.expected_group(seed)]


def test_a_rollout_that_was_cut_off_counts_in_its_group_as_one_without_an_answer(parity, row):
    info = row(SCENE, **parity.RULES)["extra_info"]
    task = Task(**parity.RULES)
    group = task.group(SCENE, 2)
    group.step_member(0, parity.SCRIPTS[1][0])
    group.step_member(1, parity.SCRIPTS[0][0])
    group.abandon(1)
    expected = [terms.total(task.config.reward.weights) for terms in group.terms]
    assert verl_dataset.group_rewards(info, [parity.SCRIPTS[1], parity.SCRIPTS[0][:1]]) == expected


def test_verls_own_worker_finds_the_loop_and_trains_on_what_it_played(
    parity, tiny, tmp_path, monkeypatch
):
    model, processor = tiny()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "agents.yaml").write_text(adapter.AGENT_LOOP_YAML)
    scenes = [SCENE] * len(parity.SCRIPTS)
    verl_dataset.write_dataset(tmp_path / "train.parquet", scenes, **parity.RULES)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delitem(agent_loop._agent_loop_registry, verl_dataset.AGENT_NAME)
    rollout = "actor_rollout_ref.rollout"
    with initialize_config_dir(
        os.path.dirname(verl.__file__) + "/trainer/config", version_base="1.3"
    ):
        config = compose(
            "ppo_trainer",
            [
                f"actor_rollout_ref.model.path={tmp_path}/model",
                f"{rollout}.name=vllm",
                f"{rollout}.prompt_length=512",
                f"{rollout}.response_length=1024",
                f"{rollout}.calculate_log_probs=true",
                f"{rollout}.agent.agent_loop_config_path={tmp_path}/agents.yaml",
                f"+data.cache_dir={tmp_path}/cache",
                "data.filter_overlong_prompts_workers=1",
                "data.return_raw_chat=true",
            ],
        )
    data = RLHFDataset(
        [str(tmp_path / "train.parquet")], processor.tokenizer, config.data, processor
    )
    assert len(data) == len(scenes)
    batch = DataProto.from_single_dict(collate_fn([data[i] for i in range(len(data))]))
    # As verl's manager numbers the rollouts of a batch, which may ask in any order.
    batch.non_tensor_batch["priority"] = np.arange(len(data))
    server = Server(processor.tokenizer, parity.SCRIPTS)

    async def run():
        return await AgentLoopWorker(config, llm_client=server).generate_sequences(batch)

    out = asyncio.run(run())
    expected = parity.expected_alone(SEED)
    assert out.batch["rm_scores"].sum(-1).tolist() == pytest.approx([e.reward for e in expected])
    for name in ("format", "look", "accuracy"):
        assert out.non_tensor_batch[name].tolist() == [e.terms[name] for e in expected]
    assert out.non_tensor_batch["ambiguity"].tolist() == ["annotation"] * len(scenes)
    for k, script in enumerate(parity.SCRIPTS):
        ids, mask = out.batch["responses"][k], out.batch["response_mask"][k].bool()
        assert processor.tokenizer.decode(ids[mask]) == "".join(text + END for text in script)
        grid = out.non_tensor_batch["multi_modal_inputs"][k]["image_grid_thw"]
        assert len(grid) == sum(len(message.images) for message in expected[k].shown)
        pads = placeholders(processor, out.batch["input_ids"][k].tolist())
        assert pads == int(grid.prod(-1).sum()) // processor.image_processor.merge_size**2
        assert (out.batch["rollout_log_probs"][k][mask] < 0).all()
        assert (out.batch["rollout_log_probs"][k][~mask] == 0).all()


def test_rows_say_what_is_wrong_with_them(parity, tiny, tmp_path):
    path = tmp_path / "rows.parquet"
    with pytest.raises(ConfigError, match="unknown keyword 'view'"):
        verl_dataset.write_dataset(path, [0], scenes="toy", view=3)
    with pytest.raises(IndexError, match=r"expected 0\.\."):
        verl_dataset.write_dataset(path, [10**6], scenes="toy")
    with pytest.raises(ConfigError, match="at least one"):
        verl_dataset.write_dataset(path, [], scenes="toy")
    with pytest.raises(ConfigError, match=r"expected scene and task, got \['index'\]"):
        play(tiny()[1], {"extra_info": {"index": 0}}, parity.SCRIPTS[0])


@pytest.mark.parametrize("module", [adapter, verl_dataset])
def test_without_the_library_the_install_line_is_given(monkeypatch, module):
    monkeypatch.setattr(needs_module, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[verl\]"'):
        importlib.reload(module)
