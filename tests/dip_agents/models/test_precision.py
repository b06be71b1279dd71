import pytest
import torch

from dip_agents.models.precision import autocast_context


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_products_have_the_dtype_of_the_context(dtype):
    matrix = torch.ones(2, 2)
    with autocast_context(dtype, matrix.device):
        assert (matrix @ matrix).dtype == (dtype or torch.float32)
