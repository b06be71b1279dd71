import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextRMSNorm,
    apply_rotary_pos_emb,
)

from dip_agents.models import norm_rotate as module
from dip_agents.models.norm_rotate import norm_rotate, rms_norm, rotate


@pytest.fixture
def inputs():
    """Rows (7, 3, 8), a weight, and cosines and sines whose halves are alike."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, generator=generator, dtype=torch.float64)
    angles = torch.randn(7, 1, 4, generator=generator, dtype=torch.float64).repeat(1, 1, 2)
    return x.requires_grad_(), weight.requires_grad_(), angles.cos(), angles.sin()


@pytest.mark.parametrize("block", [1, 50, 2**17])
def test_all_gradients_pass_gradcheck_in_blocks_of_any_size(monkeypatch, inputs, block):
    monkeypatch.setattr(module, "BLOCK", block)
    x, weight, cos, sin = inputs
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))
    assert torch.autograd.gradcheck(lambda x, w: norm_rotate(x, w, 1e-3, cos, sin), (x, weight))


def test_norm_and_rotation_equal_those_of_transformers(inputs):
    x, weight, cos, sin = (part.detach().float() for part in inputs)
    norm = Qwen3VLTextRMSNorm(8, eps=1e-3)
    norm.weight.data.copy_(weight)
    torch.testing.assert_close(rms_norm(x, weight, 1e-3), norm(x))
    turned, _ = apply_rotary_pos_emb(norm(x), norm(x), cos, sin, unsqueeze_dim=0)
    torch.testing.assert_close(norm_rotate(x, weight, 1e-3, cos, sin), turned[0])
    turned, _ = apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=0)
    torch.testing.assert_close(rotate(x, cos, sin), turned[0])


def test_a_result_for_products_is_rounded_once(inputs):
    x, weight, cos, sin = (part.detach().float() for part in inputs)
    exact = rms_norm(x, weight, 1e-3)
    assert torch.equal(rms_norm(x, weight, 1e-3, torch.bfloat16), exact.bfloat16())
    low = x.bfloat16()
    assert torch.equal(rotate(low, cos, sin), rotate(low.float(), cos, sin).bfloat16())


def test_only_the_inputs_and_one_number_per_row_are_kept(inputs):
    x, weight, cos, sin = inputs
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape), lambda t: t):
        norm_rotate(x, weight, 1e-3, cos, sin)
    assert kept == [x.shape, weight.shape, (7, 3, 1), cos.shape, sin.shape]


def test_a_frozen_weight_and_no_rows_are_no_trouble(inputs):
    x, weight, cos, sin = inputs
    norm_rotate(x, weight.detach(), 1e-3, cos, sin).sum().backward()
    assert x.grad.any() and weight.grad is None
    empty = torch.zeros(0, 8, requires_grad=True)
    rms_norm(empty, weight.float(), 1e-3).sum().backward()
    assert empty.grad.shape == (0, 8)
