import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dip_agents.models.lora import add_lora, base_model
from dip_agents.models.packed_attention import attend_packed
from dip_agents.models.text_layers import speed_up_text, swiglu
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.packing import pack

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]


@pytest.fixture(scope="module")
def models():
    """Return a function that copies the stock model of a family, with weights that all matter."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = build_tiny(tiny_texts(), size="micro", family=family)[0]
            for name, parameter in made[family].model.language_model.named_parameters():
                if "norm" in name or "bias" in name:  # ones and zeros at first
                    nn.init.normal_(parameter, mean=1.0, std=0.2)
            attend_packed(made[family].model.language_model)
        return copy.deepcopy(made[family])

    return get


def layout():
    """A prompt of 9 tokens and three rollouts of unlike length, in one row."""
    buffers = []
    for length in (4, 11, 7):
        buffer = TokenBuffer(-1)
        buffer.append_env(list(range(9)), ())
        buffer.append_policy(list(range(length)), None)
        buffers.append(buffer)
    row = pack(buffers)
    return row.tokens, row.layout()


def outcome(model, autocast=None, packed=True):
    """Last states of a row of random embeddings, and the gradient of each text parameter."""
    model.zero_grad()
    text = base_model(model).model.language_model
    tokens, where = layout()
    generator = torch.Generator().manual_seed(0)
    width = text.embed_tokens.weight.shape[1]
    embeds = torch.randn(1, tokens, width, generator=generator, requires_grad=True)
    positions = torch.arange(tokens).expand(3, 1, -1)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        out = text(
            inputs_embeds=embeds,
            position_ids=positions,
            use_cache=False,
            **({"packed": where} if packed else {}),
        ).last_hidden_state
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    grads = {n: p.grad for n, p in text.named_parameters() if p.grad is not None}
    return out.detach(), grads | {"input": embeds.grad}


def assert_same(fast, stock, gradient=1e-5):
    torch.testing.assert_close(fast[0], stock[0], atol=1e-5, rtol=1e-5)
    assert fast[1].keys() == stock[1].keys()
    for name, wanted in stock[1].items():
        assert (fast[1][name] - wanted).norm() <= gradient * wanted.norm() + 1e-5, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packed", [True, False])
def test_states_and_all_gradients_equal_the_stock_text_model(models, family, packed):
    model = models(family)
    stock = outcome(model, packed=packed)
    assert len(stock[1]) > 20 and all(gradient.any() for gradient in stock[1].values())
    assert speed_up_text(model.model.language_model)
    assert_same(outcome(model, packed=packed), stock)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_put_on_before_or_after_take_part(models, family):
    results = []
    for order in ("stock", "after", "before"):
        model = models(family)
        if order == "after":
            speed_up_text(model.model.language_model)
        model = add_lora(model, 2, seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.05)
        if order == "before":
            speed_up_text(base_model(model).model.language_model)
        results.append(outcome(model))
    assert any("lora_" in name for name in results[0][1])
    assert (results[0][0] - outcome(models(family))[0]).abs().max() > 1e-2
    for fast in results[1:]:
        assert_same(fast, results[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_under_bf16_autocast_it_is_as_close_to_fp32_as_the_stock_model(models, family):
    model = models(family)
    exact = outcome(model)
    stock = outcome(model, torch.bfloat16)
    speed_up_text(model.model.language_model)
    fast = outcome(model, torch.bfloat16)
    assert fast[0].dtype == stock[0].dtype == torch.float32

    def error(found):
        parts = [(found[0], exact[0]), *((found[1][n], g) for n, g in exact[1].items())]
        return sum(float((one - other).norm() / other.norm()) for one, other in parts) / len(parts)

    assert 0 < error(fast) < 1.2 * error(stock) < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_bf16_stay_near_the_stock_model(models, family):
    model = models(family)
    exact = outcome(model)[0]
    model = model.bfloat16()
    embeds_as_weights = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: (
            args,
            kwargs | {"inputs_embeds": kwargs["inputs_embeds"].bfloat16()},
        ),
        with_kwargs=True,
    )
    stock = outcome(model)[0]
    speed_up_text(model.model.language_model)
    fast = outcome(model)[0]
    embeds_as_weights.remove()
    assert fast.dtype == stock.dtype == torch.bfloat16
    assert 0 < (fast - exact).norm() < 1.2 * (stock - exact).norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_less_is_kept_for_the_backward_pass(models, family):
    model, sizes = models(family), []
    for fast in (False, True):
        if fast:
            speed_up_text(model.model.language_model)
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outcome(model, torch.bfloat16)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        sizes.append(sum(size for place, size in kept.items() if place not in weights))
    assert sizes[1] < 0.9 * sizes[0]


def test_names_of_weights_stay_and_a_copy_computes_with_its_own(models):
    model = models("qwen3_vl")
    names = list(model.state_dict())
    speed_up_text(model.model.language_model)
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.zero_()
    assert not outcome(model)[0].any()
    assert outcome(twin)[0].any()


def test_the_gate_passes_gradcheck_and_keeps_its_inputs_only():
    gate, up = (torch.randn(3, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.equal(swiglu(gate, up), F.silu(gate) * up)
    assert torch.autograd.gradcheck(swiglu, (gate, up))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t):
        swiglu(gate, up)
    assert [t.data_ptr() for t in kept] == [gate.data_ptr(), up.data_ptr()]


def test_a_text_model_of_another_family_is_left_alone_with_a_line_in_the_log(caplog):
    other = nn.Sequential(nn.Linear(2, 2))
    with caplog.at_level(logging.WARNING):
        assert not speed_up_text(other)
    assert "forward" not in vars(other)
    assert caplog.records[0].message == (
        "expected the text model of Qwen3-VL or Qwen2.5-VL, got Sequential: it keeps the slower "
        "forward of transformers"
    )
