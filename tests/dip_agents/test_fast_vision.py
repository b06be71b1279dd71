import numpy as np
import pytest
import torch

from dip_agents.fast_vision import speed_up_vision
from dip_agents.models import tiny_texts
from dip_agents.tiny.model import build_tiny

GRIDS = {"equal": [(1, 4, 6)] * 3, "mixed": [(1, 4, 6), (1, 2, 2), (1, 4, 6), (1, 6, 2)]}


@pytest.mark.parametrize("case", GRIDS)
def test_features_and_gradients_equal_the_stock_tower(case):
    grids = torch.tensor(GRIDS[case])
    patches = torch.from_numpy(
        np.random.default_rng(0).normal(size=(int(grids.prod(1).sum()), 1536)).astype(np.float32)
    )
    results = []
    for fast in (False, True):
        model, _ = build_tiny(tiny_texts(), size="micro")
        visual = model.model.visual
        if fast:
            speed_up_vision(visual)
        out = model.model.get_image_features(patches, grids)
        features = torch.cat(list(out.pooler_output))
        (features.square().sum()).backward()
        gradients = {n: p.grad for n, p in visual.named_parameters() if p.grad is not None}
        results.append((features.detach(), gradients))
    (stock, stock_grads), (fast_features, fast_grads) = results
    torch.testing.assert_close(fast_features, stock, atol=2e-6, rtol=1e-5)
    assert fast_grads.keys() == stock_grads.keys()
    for name, gradient in stock_grads.items():
        error = (fast_grads[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert error < 1e-4, name


def test_images_do_not_see_each_other():
    model, _ = build_tiny(tiny_texts(), size="micro")
    speed_up_vision(model.model.visual)
    rng = np.random.default_rng(1)
    first = torch.from_numpy(rng.normal(size=(24, 1536)).astype(np.float32))
    second = torch.from_numpy(rng.normal(size=(4, 1536)).astype(np.float32))
    with torch.no_grad():
        alone = model.model.get_image_features(first, torch.tensor([[1, 4, 6]])).pooler_output[0]
        both = model.model.get_image_features(
            torch.cat([second, first]), torch.tensor([[1, 2, 2], [1, 4, 6]])
        ).pooler_output[1]
    torch.testing.assert_close(both, alone, atol=1e-6, rtol=1e-5)
