import copy

import torch
from torch import nn

from dip_agents.models.activation_checkpointing import enable_activation_checkpointing


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, states, *, scale):
        return (self.inner(states) * scale).tanh().exp()


def kept(run):
    """Return how many tensors autograd keeps while something runs."""
    tensors = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensors.append(tensor) or tensor, lambda tensor: tensor
    ):
        run()
    return len(tensors)


def gradients(layer, states):
    layer.zero_grad()
    out = layer(states, scale=2.0)
    out.sum().backward()
    return out, layer.inner.weight.grad.clone()


def test_results_and_gradients_stay_and_less_is_kept():
    torch.manual_seed(0)
    layer, states = Layer().eval(), torch.randn(3, 4, requires_grad=True)
    before = kept(lambda: layer(states, scale=2.0))
    plain = gradients(layer, states)
    enable_activation_checkpointing([layer])
    enable_activation_checkpointing([layer])
    # Autograd keeps the insides under a frame of their own, as placeholders without data.
    assert kept(lambda: layer(states, scale=2.0)) < before
    for one, other in zip(plain, gradients(layer, states), strict=True):
        assert torch.equal(one, other)


def test_the_inside_runs_again_for_gradients_only():
    layer, calls = Layer(), []
    enable_activation_checkpointing([layer])
    layer.inner.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        layer(torch.ones(1, 4), scale=1.0)
    assert len(calls) == 1
    gradients(layer, torch.ones(1, 4))
    assert len(calls) == 3


def test_a_copy_recomputes_with_its_own_weights():
    layer = Layer()
    enable_activation_checkpointing([layer])
    other = copy.deepcopy(layer)
    nn.init.zeros_(other.inner.weight)
    nn.init.zeros_(other.inner.bias)
    assert torch.equal(other(torch.ones(1, 4), scale=1.0), torch.ones(1, 4))
