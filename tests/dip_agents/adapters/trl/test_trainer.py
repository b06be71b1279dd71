"""TRL plays the same episodes with the same rewards, and its trainer takes two steps on them."""

from __future__ import annotations

import functools
import importlib.util
import json
import re

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="needs the extra trl")

from trl import GRPOConfig, GRPOTrainer

from dip_agents.adapters import Task
from dip_agents.adapters import trl as adapter
from dip_agents.adapters.trl import rewards as trl_rewards
from dip_agents.adapters.trl import trainer as trl_trainer
from dip_agents.models.loading import load_model
from dip_agents.runtime import optional as needs_module
from dip_agents.tokens.chat import ChatTokens
from dip_env.errors import ConfigError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:You are using 'environment_factory'"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]


def test_what_would_train_on_other_images_than_were_shown_is_refused(tools, parity, processors):
    task, processor = Task(**parity.RULES), processors["qwen3_vl"]
    with pytest.raises(ConfigError, match="size_multiple: expected a multiple of 28"):
        tools.factory(task, processors["qwen2_5_vl"])
    with pytest.raises(ConfigError, match="max_completion_length: expected a number"):
        tools.factory(task, processor, max_completion_length=None)
    with pytest.raises(ConfigError, match="generation_kwargs: expected to ban the placeholders"):
        tools.factory(task, processor, generation_kwargs=None)


def test_dataset_rows_bring_the_scene_and_for_a_single_pass_the_opening(parity):
    task = Task(**parity.RULES)
    assert adapter.trl_dataset(task, [2, 0])[0]["scene"] == 2
    row = adapter.trl_dataset(task, [2, 0], "single_pass")[1]
    opening = task.episode(0).opening
    assert row["prompt"] == [{"role": "user", "content": opening.text}] and row["scene"] == 0
    assert parity.shown("", [row["image"]]) == parity.shown("", opening.images)
    with pytest.raises(ConfigError, match="form: expected tools or single_pass, got 'text'"):
        adapter.trl_dataset(task, [0], "text")
    # Beside each other, two groups on one scene would be taken for one of twice the size.
    with pytest.raises(ConfigError, match="scenes: expected each once, got scene 2 3 times"):
        adapter.trl_dataset(task, [2, 0, 2, 2])


def called(tool, member, **boxes):
    call = {"name": tool, "arguments": {"thought": f"member {member}", **boxes}}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


LOOK = [[8, 8, 60, 70], [64, 10, 100, 90]]
SAID = (
    (
        called("look", 0, regions=LOOK),
        called("answer", 0, boxes=[[30, 40, 50, 90]]),
        "well",
    ),
    (called("answer", 1, boxes=[[10, 40, 30, 90], [80, 40, 100, 95]]), "well"),
    # More than the environment can know of, so that TRL has no room for the crops.
    ("[[" * 380 + called("look", 2, regions=LOOK),),
    ("I wonder",),
)
PLACEHOLDER = "<|image_pad|>"
"""What four rollouts say, turn by turn; a model with random weights calls no tool."""


def speak(model, processor, limit, script=SAID):
    """Let the model say a script, and check that it is shown what its tokens promise."""
    tokenizer = processor.tokenizer

    def spell(text):
        """Return ids that hold a placeholder as letters, as of a model that may not sample it."""
        first, *others = text.split(PLACEHOLDER)
        ids = tokenizer.encode(first)
        for piece in others:
            ids += [i for letter in PLACEHOLDER for i in tokenizer.encode(letter)]
            ids += tokenizer.encode(piece)
        return [*ids, tokenizer.eos_token_id]

    def generate(input_ids, image_grid_thw, **_):
        assert (input_ids == processor.image_token_id).sum() == image_grid_thw.prod(-1).sum() // 4
        rows = []
        for row, ids in enumerate(input_ids):
            text = tokenizer.decode(ids)
            turn = text.count("<|im_start|>assistant\n") - 1
            member = int(re.findall(r'"member (\d)"', text)[0]) if turn else row % len(script)
            rows.append(torch.tensor(spell(script[member][turn])[:limit]))
        said = torch.nn.utils.rnn.pad_sequence(rows, True, tokenizer.pad_token_id)
        return torch.cat([input_ids, said], dim=1)

    model.generate = generate


def config(folder, processor, **kwargs):
    return GRPOConfig(
        output_dir=str(folder),
        generation_kwargs=adapter.banned_tokens(processor),
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **kwargs,
    )


def recorded(reward, calls):
    @functools.wraps(reward)
    def record(**kwargs):
        calls.append((kwargs["scene"], paid := reward(**kwargs)))
        return paid

    return record


def tool_trainer(folder, model, processor, calls):
    """Return a trainer of tool calls on small toy scenes, which keeps scenes and rewards."""
    adapter.use_tool_template(processor)
    task = Task("toy", view_size=112, crop_size=56, size_multiple=28, max_regions=2, max_turns=3)
    args = config(folder, processor, max_completion_length=500)
    trainer = GRPOTrainer(
        model,
        recorded(adapter.dip_rewards(task, args), calls),
        args,
        adapter.trl_dataset(task, range(4)),
        processing_class=processor,
        environment_factory=adapter.environment_factory(task, processor, args, reserve=0),
    )
    return trainer, task


def images_of(inputs):
    """Return the patches of each image of a forward pass, as bytes in order of their values."""
    sizes = inputs["image_grid_thw"].prod(-1).tolist()
    return sorted(p.numpy().tobytes() for p in inputs["pixel_values"].split(sizes))


def test_the_trainer_takes_two_steps_on_calls_crops_and_group_rewards(tools, tmp_path):
    model, processor = tools.built("qwen2_5_vl")
    calls, forwards, before = [], [], {n: p.clone() for n, p in model.named_parameters()}
    trainer, task = tool_trainer(tmp_path, model, processor, calls)
    speak(model, processor, trainer.max_completion_length)
    model.register_forward_pre_hook(
        lambda _, args, inputs: forwards.append(inputs) if model.training else None,
        with_kwargs=True,
    )
    trainer.train()

    for inputs in forwards:
        # Four overviews and the two crops of member 0; those of member 2 had no room.
        assert len(inputs["image_grid_thw"]) == 6
        images = (inputs["input_ids"] == processor.image_token_id).sum()
        assert images == inputs["image_grid_thw"].prod(-1).sum() // 4
    assert len(forwards) == 2
    assert any(not torch.equal(before[n], p) for n, p in model.named_parameters())
    log = [line for line in trainer.state.log_history if "reward" in line]
    assert len(calls) == len(log) == 2
    chat = ChatTokens(processor)
    look = "<think>x</think><look>[[8,8,60,70],[64,10,100,90]]</look>"
    answers = {0: "[[30,40,50,90]]", 1: "[[10,40,30,90],[80,40,100,95]]"}
    for (scenes, paid), line, inputs in zip(calls, log, forwards, strict=True):
        group = task.group(scenes[0], 4)
        group.step_member(0, look)
        group.step_member(2, look)
        for member in range(4):
            if member in answers:
                text = f"<think>x</think><answer>{answers[member]}</answer>"
                group.step_member(member, text)
            else:
                group.abandon(member)
        trained = [m.opening.images[0] for m in group.episodes]
        trained += [crop.image for crop in group.episodes[0].crops]
        ours = (chat.patches([chat.encode_image(np.asarray(image))]) for image in trained)
        assert images_of(inputs) == sorted(patches.numpy().tobytes() for patches in ours)
        assert paid == [s.terms.total(task.config.reward.weights) for s in group.scores]
        assert line["reward"] == pytest.approx(sum(paid) / 4, abs=1e-6)
        assert line["rewards/dip_reward/mean"] == pytest.approx(sum(paid) / 4, abs=1e-6)
        assert line["tools/failure_frequency"] == 0
    assert any(len(set(paid)) > 1 for _, paid in calls)


@pytest.mark.parametrize(
    ("tool", "argument"), [(PLACEHOLDER, "regions"), ("look", PLACEHOLDER), ("look", "\ud800")]
)
def test_a_call_that_misspells_a_name_is_answered_and_trained(tools, tmp_path, tool, argument):
    model, processor = tools.built("qwen2_5_vl")
    misspelled = called(tool, 3, **{argument: LOOK})
    script = (*SAID[:3], (misspelled, called("answer", 3, boxes=[[1, 2, 30, 40]]), "well"))
    trainer, _ = tool_trainer(tmp_path, model, processor, [])
    speak(model, processor, trainer.max_completion_length, script)
    trainer.train()
    log = [line for line in trainer.state.log_history if "reward" in line]
    # One of six, and the model went on to its answer.
    assert [line["tools/failure_frequency"] for line in log] == pytest.approx([1 / 6] * 2)
    assert [line["tools/call_frequency"] for line in log] == [6 / 4] * 2


def test_the_trainer_takes_two_steps_of_a_single_pass_sampled_by_the_tiny_model(tmp_path):
    loaded = load_model("tiny")
    processor = loaded.vlm.processor
    processor.tokenizer.padding_side = "left"
    # The tiny model was trained to look first and to answer later.
    task = Task("toy", view_size=384, max_looks=0, max_turns=1, minimal_prompt=True)
    args = config(tmp_path, processor, max_completion_length=64)
    calls = []
    model = loaded.vlm.model
    before = {n: p.clone() for n, p in model.named_parameters()}
    trainer = GRPOTrainer(
        model,
        recorded(adapter.single_pass_reward(task, processor, args), calls),
        args,
        adapter.trl_dataset(task, range(4), "single_pass"),
        processing_class=processor,
    )
    assert trainer.generation_config.suppress_tokens == [
        processor.image_token_id, processor.video_token_id
    ]  # fmt: skip
    trainer.train()
    log = [line for line in trainer.state.log_history if "reward" in line]
    assert len(calls) == len(log) == 2
    for (scenes, paid), line in zip(calls, log, strict=True):
        assert len(set(scenes)) == 1
        assert line["reward"] == pytest.approx(sum(paid) / 4, abs=1e-6)
        assert line["reward/format"] > 0
    changed = any(not torch.equal(before[n], p) for n, p in model.named_parameters())
    assert changed == any(len(set(paid)) > 1 for _, paid in calls)


@pytest.mark.parametrize("module", [trl_trainer, trl_rewards], ids=["trainer", "rewards"])
def test_without_trl_the_adapter_says_how_to_get_it(monkeypatch, module):
    monkeypatch.setattr(needs_module, "find_spec", lambda name: None)
    spec = importlib.util.spec_from_file_location("adapter_again", module.__file__)
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[trl\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
