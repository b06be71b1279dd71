from types import SimpleNamespace

import pytest

from dip_agents.models.fsdp import ShardedVLM
from dip_agents.runtime.distributed import DistributedContext
from dip_env.errors import ConfigError


@pytest.mark.parametrize("shares", [True, False])
def test_a_split_model_shares_prompts_as_the_whole_one_does(shares):
    """Else its micro-batches would count and run every prompt once per rollout."""
    policy = object.__new__(ShardedVLM)
    policy.vlm = SimpleNamespace(shares_prefix=shares)
    assert policy.shares_prefix is shares


def test_other_families_are_refused_by_name(generic_micro):
    with pytest.raises(ConfigError, match="model: expected a Qwen-VL model for FSDP2, got llava"):
        ShardedVLM(generic_micro("llava"), DistributedContext())
