"""vLLM itself is played by a fake that counts, so that these run without it.

``examples/vllm_check.py`` runs the real one; so does the last test here, where it is installed.
"""

import importlib.util
import os
import random
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dip_agents.engines.base import Chunk, EngineError, Sampling
from dip_agents.engines.vllm import VLLMEngine, repack_tied_head
from dip_agents.engines.vllm_requests import (
    check_prompt,
    one_placeholder_per_image,
    sample_of,
)
from dip_agents.models.lora import add_lora
from dip_agents.models.vlm import VLM
from dip_agents.tokens.buffer import TokenBudgetError
from dip_env.errors import ConfigError
from dip_env.messages import Message

PAD = 9


def image(tokens):
    return types.SimpleNamespace(tokens=tokens)


# --- rows as vLLM takes them ---


def test_each_image_keeps_one_of_its_placeholders():
    ids = [1, PAD, PAD, PAD, 2, PAD, PAD, 3]
    assert one_placeholder_per_image(ids, [image(3), image(2)], PAD) == [1, PAD, 2, PAD, 3]


def test_images_side_by_side_stay_two():
    assert one_placeholder_per_image([PAD] * 5, [image(3), image(2)], PAD) == [PAD, PAD]


@pytest.mark.parametrize(
    ("ids", "sizes"), [([1, PAD, PAD], [3]), ([PAD, PAD], []), ([1, 2], [1]), ([PAD, 1], [2])]
)
def test_placeholders_that_are_not_those_of_the_images_are_refused(ids, sizes):
    with pytest.raises(EngineError, match="placeholders"):
        one_placeholder_per_image(ids, [image(n) for n in sizes], PAD)


def test_a_prompt_read_otherwise_is_named_by_its_first_difference():
    check_prompt([1, 2, 3], [1, 2, 3], 4)
    with pytest.raises(EngineError, match=r"row 4: .* our 3 tokens, got 3; .* token 1: ours \[2"):
        check_prompt([1, 2, 3], [1, 7, 3], 4)
    with pytest.raises(EngineError, match=r"our 3 tokens, got 2; first difference at token 2"):
        check_prompt([1, 2, 3], [1, 2], 0)
    with pytest.raises(EngineError, match="got 0"):
        check_prompt([1], None, 0)


def test_banned_ids_are_those_the_trainer_leaves_out(micro):
    vlm = micro()
    assert vlm.core.get_input_embeddings().weight.shape[0] > len(vlm.processor.tokenizer)
    out = vlm.head.log_softmax(torch.zeros(1, vlm.core.config.text_config.hidden_size), 1.0)[0]
    assert vlm.banned_ids == torch.nonzero(out == -torch.inf)[:, 0].tolist()


def completion(ids, reason="stop", logprobs=None):
    places = [{i: types.SimpleNamespace(logprob=-0.5 - n)} for n, i in enumerate(ids)]
    return types.SimpleNamespace(
        token_ids=ids, finish_reason=reason, logprobs=places if logprobs is None else logprobs
    )


def test_the_end_of_turn_belongs_to_the_sample():
    sample = sample_of(completion([5, 6, 2]), 0, eos=2, banned=frozenset({9}))
    assert sample.ids == (5, 6, 2)
    assert sample.logprobs == (-0.5, -1.5, -2.5)
    assert not sample.truncated


def test_a_turn_at_its_limit_is_truncated():
    assert sample_of(completion([5, 6], "length"), 0, 2, frozenset()).truncated
    # The last token allowed may be the end of turn.
    assert not sample_of(completion([5, 2], "length"), 0, 2, frozenset()).truncated


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (completion([5, 9]), "banned id 9"),
        (completion([5, 2], "abort"), "got 'abort'"),
        (completion([5, 2], logprobs=[]), "a logprob for each of 2 tokens"),
    ],
)
def test_unusable_turns_are_errors(made, message):
    with pytest.raises(EngineError, match=f"row 3.*{message}"):
        sample_of(made, 3, 2, frozenset({9}))


# --- the engine against a fake ---


class FakeParams:
    """Keeps what ``vllm.SamplingParams`` was given."""

    def __init__(self, **keywords):
        self.keywords = keywords


class FakeLLM:
    """Generates the same three tokens for every row, one request per step, the newest first."""

    reset_works = True
    break_prompt = False

    def __init__(self, **keywords):
        self.keywords = keywords
        self.calls, self.requests, self.queue, self.expand = [], [], [], {}
        random.seed(99)  # as vLLM does
        np.random.seed(99)
        torch.manual_seed(99)
        self.llm_engine = types.SimpleNamespace(
            step=self.step,
            abort_request=lambda names, internal: self.calls.append(("abort", names)),
            reset_encoder_cache=lambda: self.calls.append("encoder"),
            add_lora=lambda r: self.calls.append(("add_lora", r)),
            remove_lora=lambda i: self.calls.append(("remove_lora", i)),
        )

    def enqueue(self, prompts, params, lora_request, use_tqdm):
        names = []
        for prompt, one in zip(prompts, params, strict=True):
            name = str(len(self.requests))
            self.requests.append((prompt, one.keywords, lora_request))
            self.queue.append(name)
            names.append(name + "-ab12cd34")
        return names

    def step(self):
        torch.rand(1)  # the CPU build draws from torch's generator
        name = self.queue.pop()
        prompt, keywords, _ = self.requests[int(name)]
        images = iter(prompt.get("multi_modal_data", {}).get("image", []))
        ids = []
        for i in prompt["prompt_token_ids"]:
            side = self.expand["side"]
            times = 1
            if i == self.expand["placeholder"]:
                width, height = next(images).size
                times = (width // side) * (height // side)
            ids += [i] * times
        if self.break_prompt:
            ids[-1] += 1
        said = [4, 5, *keywords["stop_token_ids"]][: keywords["max_tokens"]]
        done = completion(said, "stop" if len(said) == 3 else "length")
        begun = types.SimpleNamespace(finished=False, request_id="0")
        ended = types.SimpleNamespace(
            finished=True, request_id=name, prompt_token_ids=ids, outputs=[done]
        )
        return [begun, ended]

    def collective_rpc(self, method, kwargs):
        self.calls.append((method, dict(kwargs["weights_iterator"])))

    def apply_model(self, function):
        self.calls.append(function)

    def reset_prefix_cache(self):
        self.calls.append("prefix")
        return self.reset_works

    def reset_mm_cache(self):
        self.calls.append("mm")

    def sleep(self, level):
        self.calls.append(("sleep", level))

    def wake_up(self, tags):
        self.calls.append(("wake", *tags))


@dataclass
class FakeLoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@pytest.fixture
def vllm(monkeypatch):
    """Put the fake where vLLM would be."""
    module = types.SimpleNamespace(LLM=FakeLLM, SamplingParams=FakeParams)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(
        sys.modules, "vllm.lora.request", types.SimpleNamespace(LoRARequest=FakeLoRARequest)
    )
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    return module


@pytest.fixture
def engine(vllm, micro):
    return started(micro())


def started(vlm, **settings):
    engine = VLLMEngine(vlm, token_budget=400, **settings)
    side = vlm.chat.patch * vlm.chat.merge
    engine._llm.expand = {"placeholder": vlm.image_token_id, "side": side}
    return engine


def prompt(vlm, columns=2, rows=2, seed=0):
    message = Message("user", "Find all people.", (picture(vlm, columns, rows, seed),))
    ids, images = vlm.chat.opening([message])
    return Chunk(tuple(ids), tuple(images), (message,))


def picture(vlm, columns, rows, seed):
    side = vlm.chat.patch * vlm.chat.merge
    shape = (rows * side, columns * side, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_rows_go_on_with_their_own_tokens_images_and_seeds(engine, micro):
    """Two prompts, two rows each; row 1 ends at once, the others see a crop and go on."""
    vlm = micro()
    chunks = [prompt(vlm, 2, 2, 0), prompt(vlm, 3, 2, 1)]
    told: dict[int, list] = {}

    def reply(row, sample):
        told.setdefault(row, []).append(sample)
        if row == 1 or len(told[row]) == 2:
            return None
        ids, images = vlm.chat.reply(Message("user", "Crop.", (picture(vlm, 1, 1, 10 + row),)))
        return Chunk(tuple(ids), tuple(images))

    engine.play(chunks, 2, reply, Sampling(0.7, 50, 300), lambda row, turn: 100 * row + turn)
    assert {row: len(samples) for row, samples in told.items()} == {0: 2, 1: 1, 2: 2, 3: 2}
    requests = engine._llm.requests
    assert sorted(r[1]["seed"] for r in requests) == [0, 1, 100, 200, 201, 300, 301]
    second = next(r for r in requests if r[1]["seed"] == 201)
    first_ids = one_placeholder_per_image(chunks[1].ids, chunks[1].images, vlm.image_token_id)
    said = list(told[2][0].ids)
    assert second[0]["prompt_token_ids"][: len(first_ids) + 3] == first_ids + said
    keys = second[0]["multi_modal_uuids"]["image"]
    assert keys[0] == chunks[1].images[0].key.hex() and len(set(keys)) == 2
    assert [p.size for p in second[0]["multi_modal_data"]["image"]] == [
        (i.pixels.shape[1], i.pixels.shape[0])
        for i in (*chunks[1].images, vlm.chat.encode_image(picture(vlm, 1, 1, 12)))
    ]


def test_a_row_may_begin_with_turns_of_the_policy_and_several_images(engine, micro):
    vlm, told = micro(), []
    first = prompt(vlm)
    ids, images = vlm.chat.reply(Message("user", "Crop.", (picture(vlm, 3, 1, 5),)))
    said = [4, 5, vlm.chat.eos_token_id]
    fork = Chunk((*first.ids, *said, *ids), (*first.images, *images))
    engine.play(
        [fork], 2, lambda row, sample: told.append(row), Sampling(0.7, 50, 300), lambda *use: use[0]
    )
    assert sorted(told) == [0, 1]
    for request, _, _ in engine._llm.requests:
        assert request["prompt_token_ids"] == one_placeholder_per_image(
            fork.ids, fork.images, vlm.image_token_id
        )
        assert [image.size[0] for image in request["multi_modal_data"]["image"]] == [
            image.pixels.shape[1] for image in fork.images
        ]


def test_turns_are_sampled_from_the_trainers_distribution(engine, micro):
    vlm = micro()
    chunk = prompt(vlm)
    budget = len(chunk.ids) + 7
    engine.play([chunk], 1, lambda *_: None, Sampling(0.7, 50, budget), lambda *_: 5)
    assert engine._llm.keywords["logprobs_mode"] == "processed_logprobs"
    assert engine._llm.requests[0][1] == {
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": -1,
        "seed": 5,
        "max_tokens": 7,
        "stop_token_ids": [vlm.chat.eos_token_id],
        "logprobs": 0,
        "logit_bias": dict.fromkeys(vlm.banned_ids, -100.0),
        "detokenize": False,
    }


def test_greedy_turns_have_no_seed(engine, micro):
    engine.play([prompt(micro())], 1, lambda *_: None, Sampling(0.0, 5, 300), lambda *_: 5)
    assert engine._llm.requests[0][1]["temperature"] == 0.0
    assert engine._llm.requests[0][1]["seed"] is None


def test_other_tokens_in_the_engine_stop_the_play_and_its_requests(engine, micro):
    engine._llm.break_prompt = True
    with pytest.raises(EngineError, match="first difference"):
        engine.play([prompt(micro())], 3, lambda *_: None, Sampling(1, 5, 300), lambda *_: 5)
    assert engine._llm.calls == [("abort", ["0-ab12cd34", "1-ab12cd34"])]


def test_what_the_environment_raises_reaches_the_caller(engine, micro):
    def reply(row, sample):
        raise KeyError("scene")

    with pytest.raises(KeyError, match="scene"):
        engine.play([prompt(micro())], 2, reply, Sampling(1, 5, 300), lambda *_: 5)


def test_rows_beyond_the_budget_are_refused(engine, micro):
    chunk = prompt(micro())
    with pytest.raises(TokenBudgetError, match=r"token_budget: expected at most the engine's 400"):
        engine.play([chunk], 1, lambda *_: None, Sampling(1, 5, 401), lambda *_: 5)
    with pytest.raises(TokenBudgetError, match=r"token_budget: expected more than .* for row 0"):
        engine.play([chunk], 1, lambda *_: None, Sampling(1, 5, len(chunk.ids)), lambda *_: 5)


def test_the_process_keeps_its_random_state(vllm, micro):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    engine = started(micro())
    engine.play([prompt(micro())], 1, lambda *_: None, Sampling(1, 5, 300), lambda *_: 5)
    assert state() == before


def test_sync_hands_over_weights_then_forgets_what_old_ones_made(engine, micro):
    vlm = micro()
    assert engine.version is None
    engine.sync(vlm, 3)
    (method, weights), *rest = engine._llm.calls
    assert method == "reload_weights"
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(weights[name], vlm.core.state_dict()[name])
    assert rest == [repack_tied_head, "prefix", "encoder", "mm"]
    assert engine.version == 3
    engine.sync(vlm, 3)
    assert len(engine._llm.calls) == 5  # the same weights are not synced twice


def test_a_prefix_cache_that_stays_is_an_error(engine, micro):
    engine._llm.reset_works = False
    with pytest.raises(EngineError, match="prefix cache"):
        engine.sync(micro(), 1)
    assert engine.version is None


def test_only_layers_with_their_own_weight_are_packed_again():
    packed = []

    def layer(size, cpu=True):
        module = torch.nn.Linear(1, 1)
        module.weight = torch.nn.Parameter(torch.zeros(size))
        module.quant_method = types.SimpleNamespace(process_weights_after_loading=packed.append)
        if cpu:
            module.cpu_linear = None
        return module

    model = torch.nn.ModuleList([layer(0), layer(4), layer(4, cpu=False)])
    repack_tied_head(model)
    assert packed == [model[1]]


def _lora(base, rank=8):
    return VLM(add_lora(base.model, rank, 0), base.processor)


@pytest.fixture
def lora(fresh_micro):
    return _lora(fresh_micro())


def test_each_version_of_an_adapter_has_its_own_name_and_number(vllm, lora):
    """Under a known name vLLM serves the keys and values of the old adapter."""
    engine = started(lora, weight_sync="adapter")
    assert engine._llm.keywords["max_lora_rank"] == 8
    engine.sync(lora, 10)
    engine.sync(lora, 20)
    names = [c for c in engine._llm.calls if isinstance(c, tuple)]
    assert [c[0] for c in names] == ["add_lora", "remove_lora", "add_lora"]
    first, second = names[0][1], names[2][1]
    assert (first.lora_name, first.lora_int_id) == ("policy-v10", 1)
    assert (second.lora_name, second.lora_int_id) == ("policy-v20", 2)
    assert names[1][1] == 1
    assert not os.path.exists(first.lora_path)
    assert os.path.isfile(os.path.join(second.lora_path, "adapter_model.safetensors"))
    assert [c for c in engine._llm.calls if isinstance(c, str)] == ["prefix", "encoder", "mm"] * 2
    engine.play([prompt(lora)], 1, lambda *_: None, Sampling(1, 5, 300), lambda *_: 5)
    assert engine._llm.requests[0][2] is second


def test_sleeping_frees_both_parts_and_wakes_them_one_by_one(vllm, micro, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("dip_agents.engines.vllm.rng_state", dict)
    monkeypatch.setattr("dip_agents.engines.vllm.set_rng_state", lambda state: None)
    vlm = micro()
    engine = started(vlm, sleep=2)
    assert engine._llm.keywords["enable_sleep_mode"] is True
    play = [prompt(vlm)], 1, lambda *_: None, Sampling(1, 5, 300), lambda *_: 5
    engine.sync(vlm, 1)
    engine.play(*play)
    with pytest.raises(EngineError, match="a sync first"):
        engine.play(*play)
    engine._llm.calls.clear()
    engine.sync(vlm, 1)  # the same version: the weights are gone all the same
    engine.play(*play)
    calls = [c if isinstance(c, str) else c[0] for c in engine._llm.calls if not callable(c)]
    assert calls == ["wake", "reload_weights", "prefix", "encoder", "mm", "wake", "sleep"]
    assert [c[1] for c in engine._llm.calls if isinstance(c, tuple) and c[0] == "wake"] == [
        "weights",
        "kv_cache",
    ]


def test_weights_kept_in_sleep_play_again_without_a_sync(vllm, micro, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("dip_agents.engines.vllm.rng_state", dict)
    monkeypatch.setattr("dip_agents.engines.vllm.set_rng_state", lambda state: None)
    vlm = micro()
    engine = started(vlm, sleep=1)
    for _ in range(2):
        engine.play([prompt(vlm)], 1, lambda *_: None, Sampling(1, 5, 300), lambda *_: 5)
    assert engine._llm.calls == [
        ("sleep", 1),
        ("wake", "weights"),
        ("wake", "kv_cache"),
        ("sleep", 1),
    ]


def test_settings_that_cannot_work_are_named(vllm, micro, fresh_micro, monkeypatch):
    with pytest.raises(ConfigError, match="weight_sync: expected one of"):
        VLLMEngine(micro(), weight_sync="files")
    with pytest.raises(ConfigError, match="a model with a LoRA"):
        VLLMEngine(micro(), weight_sync="adapter")
    with pytest.raises(ConfigError, match="sleep: expected 0, 1 or 2, got 3"):
        VLLMEngine(micro(), sleep=3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="vLLM sleeps on a GPU only; got 1"):
        VLLMEngine(micro(), sleep=1)
    odd = _lora(fresh_micro(), 7)
    with pytest.raises(ConfigError, match=r"lora_rank: expected one of \(1, 8, .* got 7"):
        VLLMEngine(odd, weight_sync="adapter")
    with pytest.raises(ConfigError, match="expected 0 or 1 with weight_sync='adapter', got 2"):
        VLLMEngine(_lora(fresh_micro()), weight_sync="adapter", sleep=2)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(ConfigError, match="VLLM_ENABLE_V1_MULTIPROCESSING: expected 0"):
        VLLMEngine(micro())


def test_a_missing_vllm_is_one_error_with_the_command(micro, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[train,vllm\]"'):
        VLLMEngine(micro())


def test_vllm_starts_from_the_trainers_weights_as_the_class_they_are(vllm, micro, monkeypatch):
    seen = {}
    monkeypatch.setattr(vllm, "LLM", lambda **keywords: seen.update(keywords, files=None))
    written = []
    monkeypatch.setattr(
        "dip_agents.engines.vllm.write_checkpoint",
        lambda vlm, folder, merged: written.append((vlm, merged)) or folder,
    )
    VLLMEngine(micro(), options={"enforce_eager": True, "max_model_len": 99})
    assert written == [(micro(), True)]
    assert seen["hf_overrides"] == {"architectures": ["Qwen3VLForConditionalGeneration"]}
    assert seen["dtype"] == "float32"
    assert (seen["enforce_eager"], seen["max_model_len"]) == (True, 99)
    VLLMEngine(micro(), "some/folder")
    assert len(written) == 1 and seen["model"] == "some/folder"


# --- the real one ---


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed in this environment"
)
def test_vllm_samples_from_the_trainers_weights_before_and_after_a_sync(tmp_path):
    """See ``examples/vllm_check.py`` for training steps and for adapters."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from dip_agents.models.loading import load_model
    from dip_agents.tokens.buffer import TokenBuffer

    vlm = load_model("tiny", dtype="float32").vlm
    engine = VLLMEngine(vlm, token_budget=400, options={"enforce_eager": True})
    chunk = prompt(vlm, 8, 8)

    def gap():
        buffers = []

        def reply(row, sample):
            buffer = TokenBuffer(vlm.image_token_id)
            buffer.append_env(chunk.ids, chunk.images)
            buffer.append_policy(sample.ids, sample.logprobs)
            buffers.append(buffer)

        engine.play([chunk], 4, reply, Sampling(0.8, 20, 400), lambda row, turn: row)
        with torch.no_grad():
            ours = vlm.token_logprobs(buffers, 0.8)
        for row, buffer in enumerate(buffers):
            ours.logprobs[row, : len(buffer)] -= torch.tensor(buffer.logprobs)
        return float(ours.logprobs.abs()[ours.mask].max())

    assert gap() < 1e-3
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vlm.core.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    assert gap() > 0.1  # the engine still plays the old weights
    engine.sync(vlm, 1)
    assert gap() < 1e-3
