"""TRL plays the same episodes, pays the same rewards, and its trainer takes two steps on them."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl", reason="needs the extra trl")

from transformers.utils import get_json_schema
from trl import GRPOConfig, GRPOTrainer, chat_template_utils

from dip_agents import needs as needs_module
from dip_agents.adapters import trl as adapter
from dip_agents.adapters import trl_rewards
from dip_agents.adapters.task import Task
from dip_agents.adapters.trl_environment import DIPEnvironment
from dip_agents.adapters.trl_rewards import _group_size
from dip_agents.adapters.trl_template import TOOL_TEMPLATE, TokenBudget
from dip_agents.models import load_model, tiny_texts
from dip_agents.tiny.model import build_tiny
from dip_env.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using 'environment_factory'"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]
FOUR = SimpleNamespace(num_generations=4, num_generations_eval=None, max_completion_length=4000)
CALL = re.compile(r"<think>(.*)</think><(look|answer)>(\[.*\])</\2>")
FAMILIES = {"qwen2_5_vl": 28, "qwen3_vl": 32}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Micro models lose by more, and by a lot where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(family):
    schemas = [json.dumps(get_json_schema(t)) for t in (DIPEnvironment.look, DIPEnvironment.answer)]
    words = [*tiny_texts(), *schemas, TOOL_TEMPLATE, adapter.TOOLS_ONLY]
    model, processor = build_tiny(words, family=family, size="micro")
    processor.tokenizer.padding_side = "left"
    return model, processor


@pytest.fixture(scope="module")
def processors():
    found = {family: build(family)[1] for family in FAMILIES}
    for processor in found.values():
        adapter.use_tool_template(processor)
    return found


@pytest.fixture
def processor(processors):
    """Of the family whose images have the sides of the parity rules."""
    return processors["qwen3_vl"]


def no_log(name, value):
    pass


def act(environment, text, through):
    """Say a text as a tool call where it can be one; return the reply."""
    call = CALL.fullmatch(text) if through == "tools" else None
    if call is None:
        return environment._step(text)
    thought, tool, boxes = call.groups()
    return getattr(environment, tool)(thought, json.loads(boxes))


def shown(parity, parts):
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return parity.shown("".join(texts), [p["image"] for p in parts if p["type"] == "image"])


@pytest.mark.parametrize("through", ["text", "tools"])
def test_a_group_of_environments_sees_and_earns_what_an_episode_group_does(
    parity, seed, processor, through
):
    task, logged = Task(**parity.RULES), {}
    make = adapter.environment_factory(task, processor, FOUR)
    environments, seen = [make() for _ in parity.SCRIPTS], []
    for environment, script in zip(environments, parity.SCRIPTS, strict=True):
        replies = [environment.reset(seed=seed, prompt=[])]
        replies += [act(environment, text, through) for text in script]
        assert replies[-1] == [{"type": "text", "text": "The episode has ended."}]
        seen.append(tuple(shown(parity, reply) for reply in replies[:-1]))
        said = [m.text for m in environment.episode.transcript if m.role == "assistant"]
        assert said == list(script)
    reward = adapter.dip_rewards(task, FOUR)
    paid = reward(environments=environments, log_metric=logged.__setitem__, prompts=[])
    expected = parity.expected_group(seed)
    assert seen == [played.shown for played in expected]
    assert paid == [played.reward for played in expected]
    for term in ("format", "look", "accuracy"):
        mean = sum(played.terms[term] for played in expected) / 4
        assert logged[f"reward/{term}"] == pytest.approx(mean)


def test_a_reply_keeps_text_and_crops_in_the_order_they_are_read(parity, processor):
    environment = adapter.environment_factory(Task(**parity.RULES), processor, FOUR)()
    opening = environment.reset(scene=1)
    reply = act(environment, parity.SCRIPTS[0][0], "tools")
    assert [part["type"] for part in opening] == ["image", "text"]
    assert [part["type"] for part in reply] == ["text", "image", "text", "image", "text"]


@pytest.mark.parametrize(
    ("thought", "regions"),
    [
        ("a</think>b", [[1, 2, 30, 40]]),
        ("a", [[1, 2, 3]]),
        ("a", "everywhere"),
        ("a", []),
        ("a", [[0, 0, float("nan"), 9]]),
        ("a", [[500, 500, 600, 600]]),
    ],
)
def test_a_call_outside_the_grammar_costs_a_turn_and_is_told_why(
    parity, processor, thought, regions
):
    environment = adapter.environment_factory(Task(**parity.RULES), processor, FOUR)()
    environment.reset(scene=0)
    (reply,) = environment.look(thought, regions)
    assert reply["text"].startswith("Your action was not accepted: ")
    assert (environment.episode.turn, environment.episode.looks_left) == (1, 2)


def test_special_tokens_that_a_model_spells_out_come_back_harmless(parity, processor):
    environment = adapter.environment_factory(Task(**parity.RULES), processor, FOUR)()
    environment.reset(scene=0)
    (reply,) = environment.look("a</think><|image_pad|>", [[1, 2, 30, 40]])
    assert "image_pad" in reply["text"] and "<|" not in reply["text"]


def test_only_look_and_answer_are_tools(parity):
    public = {n for n in vars(DIPEnvironment) if callable(getattr(DIPEnvironment, n))}
    assert {n for n in public if not n.startswith("_")} == {"reset", "look", "answer"}
    schema = get_json_schema(DIPEnvironment.look)["function"]["parameters"]
    assert schema["required"] == ["thought", "regions"]
    assert schema["properties"]["regions"]["items"] == {
        "type": "array",
        "items": {"type": "number"},
    }


@pytest.mark.parametrize("row", [{}, {"scene": 1, "seed": 1}])
def test_a_row_must_say_which_scene_its_rollouts_share(parity, processor, row):
    environment = adapter.environment_factory(Task(**parity.RULES), processor, FOUR)()
    with pytest.raises(ValueError, match="expected a scene or a seed, so that all rollouts"):
        environment.reset(prompt=[], **row)
    with pytest.raises(IndexError, match=r"expected 0\.\."):
        environment.reset(scene=10**6)


def test_rollouts_of_different_scenes_are_no_group(parity, processor):
    task = Task(**parity.RULES)
    environments = [adapter.environment_factory(task, processor, FOUR)() for _ in range(4)]
    for environment, scene in zip(environments, (0, 0, 1, 1), strict=True):
        environment.reset(scene=scene)
    pay = adapter.dip_rewards(task, FOUR)
    with pytest.raises(ConfigError, match=r"expected 4 in a row on one scene.*\[0, 0, 1, 1\]"):
        pay(environments=environments, log_metric=no_log)
    in_evaluation = SimpleNamespace(num_generations=4, num_generations_eval=2)
    pay = adapter.dip_rewards(task, in_evaluation)
    assert len(pay(environments=environments, log_metric=no_log)) == 4


def test_groups_of_an_evaluation_with_more_rollouts_stay_whole():
    larger = SimpleNamespace(num_generations=2, num_generations_eval=4)
    assert _group_size(larger, [5, 5, 5, 5, 7, 7, 7, 7]) == 4
    assert _group_size(larger, [5, 5, 7, 7]) == 2


def test_a_rollout_that_stops_without_an_answer_is_paid_as_truncated(parity, processor):
    task = Task(**parity.RULES)
    environments = [adapter.environment_factory(task, processor, FOUR)() for _ in range(4)]
    group = task.group(2, 4)
    for member, environment in enumerate(environments):
        environment.reset(scene=2)
        if member:
            act(environment, parity.SCRIPTS[0][0], "tools")
            group.step_member(member, parity.SCRIPTS[0][0])
        group.abandon(member)
    paid = adapter.dip_rewards(task, FOUR)(environments=environments, log_metric=no_log)
    assert paid == [score.terms.total(task.config.reward.weights) for score in group.scores]
    assert all(e.episode.done and not e.episode.answered for e in environments)


def test_siblings_in_another_process_count_like_those_at_home(parity, processor, monkeypatch):
    task = Task(**parity.RULES)
    environments = [adapter.environment_factory(task, processor, FOUR)() for _ in range(12)]
    for k, environment in enumerate(environments):
        environment.reset(scene=k // 4)
        for text in parity.SCRIPTS[k % 4]:
            environment._step(text)
    pay = adapter.dip_rewards(task, FOUR)
    together = pay(environments=environments, log_metric=no_log)
    everyone = [(e.episode.scene_index, e.episode.outcome) for e in environments]
    monkeypatch.setattr(trl_rewards, "gather_object", lambda own: everyone)
    apart = []
    for process in range(2):
        state = SimpleNamespace(process_index=process)
        monkeypatch.setattr(trl_rewards, "PartialState", lambda state=state: state)
        own = environments[6 * process : 6 * process + 6]
        apart += pay(environments=own, log_metric=no_log)
    assert apart == together


@pytest.mark.parametrize("family", FAMILIES)
def test_the_budget_counts_what_trl_appends(parity, processors, family):
    processor, multiple = processors[family], FAMILIES[family]
    rules = parity.RULES | {"size_multiple": multiple, "view_size": 140, "crop_size": 70}
    environment = adapter.environment_factory(Task(**rules), processor, FOUR)()
    environment.reset(scene=1)
    trainer = SimpleNamespace(
        processing_class=processor,
        _tokenizer=processor.tokenizer,
        _is_vlm=True,
        chat_template=None,
        chat_template_kwargs={},
    )
    for text in parity.SCRIPTS[0]:
        reply = act(environment, text, "tools")
        message = {"role": "tool", "name": "look", "content": reply}
        ids = GRPOTrainer._get_tool_suffix_ids(trainer, [message])
        assert environment._budget.reply(reply) == len(ids)


def test_a_look_without_room_is_refused_in_words_and_counted(parity, processor):
    task, logged = Task(**parity.RULES), {}
    look, answer = parity.SCRIPTS[0]
    roomy = adapter.environment_factory(task, processor, FOUR)()
    roomy.reset(scene=1)
    crops = act(roomy, look, "tools")
    needed = roomy.episode.spent + 50

    def limited(tokens):
        args = SimpleNamespace(max_completion_length=tokens)
        environment = adapter.environment_factory(task, processor, args, reserve=50)()
        environment.reset(scene=1)
        return environment, act(environment, look, "tools")

    assert shown(parity, limited(needed)[1]) == shown(parity, crops)
    tight, (reply,) = limited(needed - 1)
    assert re.search(r"expected a look that fits into the \d+ tokens left, got", reply["text"])
    assert "2 turns and 2 looks left" in reply["text"]
    assert len(tight.episode.looks) == 0
    act(tight, answer, "tools")
    act(roomy, answer, "tools")
    args = SimpleNamespace(num_generations=2, num_generations_eval=None)
    adapter.dip_rewards(task, args)(
        environments=[tight, roomy], log_metric=logged.__setitem__, prompts=[]
    )
    assert logged["looks_without_room"] == 0.5


def test_a_look_that_ends_the_episode_needs_no_room(parity, processor):
    args = SimpleNamespace(max_completion_length=51)
    task = Task(**parity.RULES | {"max_turns": 1})
    environment = adapter.environment_factory(task, processor, args, reserve=50)()
    environment.reset(scene=1)
    act(environment, parity.SCRIPTS[0][0], "tools")
    assert (len(environment.episode.looks), environment.episode.looks_without_room) == (2, 0)


def test_a_processor_that_would_resize_and_an_empty_budget_are_refused(parity, processors):
    with pytest.raises(ConfigError, match="size_multiple: expected a multiple of 28"):
        adapter.environment_factory(Task(**parity.RULES), processors["qwen2_5_vl"], FOUR)
    endless = SimpleNamespace(max_completion_length=None)
    with pytest.raises(ConfigError, match="max_completion_length: expected a number"):
        adapter.environment_factory(Task(**parity.RULES), processors["qwen3_vl"], endless)
    with pytest.raises(ConfigError, match=r"reserve: expected 0\.\.99"):
        TokenBudget(processors["qwen2_5_vl"], max_completion_length=100, reserve=100)


@pytest.mark.parametrize("form", ["text", "chat"])
def test_a_single_pass_earns_what_an_episode_group_pays(parity, seed, form):
    task = Task(**parity.RULES)
    scene = task.scene_of(seed)
    texts = [script[0] for script in parity.SCRIPTS]
    group = task.group(scene, 4)
    for member, text in enumerate(texts):
        group.step_member(member, text)
        if not group.episodes[member].done:
            group.abandon(member)
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    paid = adapter.single_pass_reward(task, FOUR)(
        completions=texts if form == "text" else chats, scene=[scene] * 4, log_metric=no_log
    )
    assert paid == [score.terms.total(task.config.reward.weights) for score in group.scores]
    assert len(set(paid)) > 1


def test_a_single_pass_refuses_thoughts_that_a_tokenizer_split_off(parity):
    message = {"role": "assistant", "content": "<answer>[]</answer>", "reasoning_content": "a"}
    pay = adapter.single_pass_reward(Task(**parity.RULES), FOUR)
    with pytest.raises(ConfigError, match=r"expected plain text, got \['reasoning_content'\]"):
        pay(completions=[[message]] * 4, scene=[0] * 4, log_metric=no_log)


def test_dataset_rows_bring_the_scene_and_for_a_single_pass_the_opening(parity):
    task = Task(**parity.RULES)
    assert adapter.trl_dataset(task, [2, 0])[0]["scene"] == 2
    row = adapter.trl_dataset(task, [2, 0], "single_pass")[1]
    opening = task.episode(0).opening
    assert row["prompt"] == [{"role": "user", "content": opening.text}] and row["scene"] == 0
    assert parity.shown("", [row["image"]]) == parity.shown("", opening.images)
    with pytest.raises(ConfigError, match="form: expected tools or single_pass, got 'text'"):
        adapter.trl_dataset(task, [0], "text")


def conversation(image):
    call = {"name": "look", "arguments": {"thought": "é", "regions": [[1, 2, 3, 4.5]]}}
    return [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "so",
            "tool_calls": [{"type": "function", "function": call}],
        },
        {
            "role": "tool",
            "name": "look",
            "content": [{"type": "text", "text": "a"}, {"type": "image", "image": image}],
        },
        {"role": "tool", "name": "look", "content": "b"},
    ]


WORDS = (
    'so\n<tool_call>\n{"name": "look", "arguments": '
    '{"thought": "é", "regions": [[1, 2, 3, 4.5]]}}\n</tool_call><|im_end|>\n'
)


def test_the_template_shows_calls_and_images_in_tool_messages(parity, processors):
    processor = processors["qwen2_5_vl"]
    image = adapter.trl_dataset(Task(**parity.RULES), [0], "single_pass")[0]["image"]
    chat = conversation(image.resize((56, 84)))
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n" + WORDS + "<|im_start|>user\n"
        "<tool_response>\na<|vision_start|><|image_pad|><|vision_end|>\n</tool_response>\n"
        "<tool_response>\nb\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    assert inputs["input_ids"][0].count(processor.image_token_id) == 2 * 3
    with pytest.raises(Exception, match="expected text and images, got a part of type video"):
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "video"}]}], tokenize=False
        )


def test_trl_accepts_the_template_and_refuses_the_one_it_replaces(processors):
    processor = processors["qwen2_5_vl"]
    assert chat_template_utils.supports_tool_calling(processor)
    assert chat_template_utils.is_chat_template_prefix_preserving(processor)
    assert chat_template_utils.get_training_chat_template(processor) is None
    bare = build("qwen2_5_vl")[1]
    bare.chat_template = chat_template_utils.qwen2_5_vl_chat_template
    assert not chat_template_utils.supports_tool_calling(bare)
    plain = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "go"}]},
        {"role": "assistant", "content": "so"},
    ]
    for chat in (plain, [{"role": "system", "content": "be"}, *plain]):
        ours, stock = (p.apply_chat_template(chat, tokenize=False) for p in (processor, bare))
        assert ours == stock


def test_what_the_model_says_is_marked_and_parsed_back(processors):
    tokenizer = processors["qwen2_5_vl"].tokenizer
    chat = conversation(None)
    out = tokenizer.apply_chat_template(
        chat, chat_template=TOOL_TEMPLATE, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = zip(out["input_ids"], out["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, mask in marked if mask]) == WORDS
    prefix = tokenizer.encode("<|im_start|>assistant\n")
    ids = tokenizer.encode(WORDS.rstrip("\n"))
    assert chat_template_utils.parse_response(tokenizer, ids, prefix=prefix) == chat[1]
    thought = tokenizer.encode("<think>a</think><answer>[]</answer><|im_end|>")
    parsed = chat_template_utils.parse_response(tokenizer, thought, prefix=prefix)
    assert parsed == {"role": "assistant", "content": "<think>a</think><answer>[]</answer>"}


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
"""What four rollouts say, turn by turn; a model with random weights calls no tool."""


def speak(model, processor, limit):
    """Let the model say ``SAID``, and check that it is shown what its tokens promise."""
    tokenizer = processor.tokenizer

    def generate(input_ids, image_grid_thw, **_):
        assert (input_ids == processor.image_token_id).sum() == image_grid_thw.prod(-1).sum() // 4
        rows = []
        for row, ids in enumerate(input_ids):
            text = tokenizer.decode(ids)
            turn = text.count("<|im_start|>assistant\n") - 1
            member = int(re.findall(r'"member (\d)"', text)[0]) if turn else row % len(SAID)
            rows.append(torch.tensor(tokenizer.encode(SAID[member][turn] + "<|im_end|>")[:limit]))
        said = torch.nn.utils.rnn.pad_sequence(rows, True, tokenizer.pad_token_id)
        return torch.cat([input_ids, said], dim=1)

    model.generate = generate


def config(folder, **kwargs):
    return GRPOConfig(
        output_dir=str(folder),
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


def test_the_trainer_takes_two_steps_on_calls_crops_and_group_rewards(tmp_path):
    model, processor = build("qwen2_5_vl")
    adapter.use_tool_template(processor)
    task = Task("toy", view_size=112, crop_size=56, size_multiple=28, max_regions=2, max_turns=3)
    args = config(tmp_path, max_completion_length=500)
    calls, forwards, before = [], [], {n: p.clone() for n, p in model.named_parameters()}
    trainer = GRPOTrainer(
        model,
        recorded(adapter.dip_rewards(task, args), calls),
        args,
        adapter.trl_dataset(task, range(4)),
        processing_class=processor,
        environment_factory=adapter.environment_factory(task, processor, args, reserve=0),
    )
    speak(model, processor, args.max_completion_length)
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
    look = "<think>x</think><look>[[8,8,60,70],[64,10,100,90]]</look>"
    answers = {0: "[[30,40,50,90]]", 1: "[[10,40,30,90],[80,40,100,95]]"}
    for (scenes, paid), line in zip(calls, log, strict=True):
        group = task.group(scenes[0], 4)
        group.step_member(0, look)
        group.step_member(2, look)
        for member in range(4):
            if member in answers:
                text = f"<think>x</think><answer>{answers[member]}</answer>"
                group.step_member(member, text)
            else:
                group.abandon(member)
        assert paid == [s.terms.total(task.config.reward.weights) for s in group.scores]
        assert line["reward"] == pytest.approx(sum(paid) / 4, abs=1e-6)
        assert line["rewards/dip_reward/mean"] == pytest.approx(sum(paid) / 4, abs=1e-6)
        assert line["tools/failure_frequency"] == 0
    assert any(len(set(paid)) > 1 for _, paid in calls)


def test_the_trainer_takes_two_steps_of_a_single_pass_sampled_by_the_tiny_model(tmp_path):
    loaded = load_model("tiny")
    processor = loaded.vlm.processor
    processor.tokenizer.padding_side = "left"
    # The tiny model was taught to look first and to answer later.
    task = Task("toy", view_size=384, max_looks=0, max_turns=1, brief=True)
    args = config(tmp_path, max_completion_length=64)
    calls = []
    model = loaded.vlm.model
    before = {n: p.clone() for n, p in model.named_parameters()}
    trainer = GRPOTrainer(
        model,
        recorded(adapter.single_pass_reward(task, args), calls),
        args,
        adapter.trl_dataset(task, range(4), "single_pass"),
        processing_class=processor,
    )
    trainer.train()
    log = [line for line in trainer.state.log_history if "reward" in line]
    assert len(calls) == len(log) == 2
    for (scenes, paid), line in zip(calls, log, strict=True):
        assert len(set(scenes)) == 1
        assert line["reward"] == pytest.approx(sum(paid) / 4, abs=1e-6)
        assert line["reward/format"] > 0
    changed = any(not torch.equal(before[n], p) for n, p in model.named_parameters())
    assert changed == any(len(set(paid)) > 1 for _, paid in calls)


def test_without_trl_the_adapter_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(needs_module, "find_spec", lambda name: None)
    spec = importlib.util.spec_from_file_location("adapter_again", adapter.__file__)
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[trl\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
