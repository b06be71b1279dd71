"""Rollouts of other ranks: all that advantages, counts and metrics read, and no pixels."""

import pickle
from dataclasses import replace

from dip_agents.engines.base import Sampling
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.batch import training_batch
from dip_agents.grpo.credit import compute_advantages
from dip_agents.grpo.gather import all_gather_groups
from dip_agents.grpo.metrics import rollout_metrics
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.runtime.distributed import DistributedContext


class Pretended(DistributedContext):
    """One of two ranks; what the other sends is given, as bytes."""

    def __init__(self, index, other=b""):
        super().__init__(index, 2)
        self.other, self.sent = other, b""

    def all_gather(self, value):
        self.sent = pickle.dumps(value)
        received = pickle.loads(self.other) if self.other else []
        return [value, received] if self.rank == 0 else [received, value]


def test_every_rank_computes_the_same_from_what_it_knows_of_all(micro, toy, minimal_prompt_rules):
    groups = collect_rollouts(
        HFEngine(micro("qwen3_vl")),
        toy,
        [0, 1, 2],
        3,
        minimal_prompt_rules,
        seed=1,
        sampling=Sampling(1.0, 12, 300),
    )
    for group in groups:  # rewards that differ, so that there is something to compare
        group.rollouts[:] = [replace(r, reward=n / 4) for n, r in enumerate(group.rollouts)]
    first = Pretended(0)
    all_gather_groups(groups[:2], first)
    second = Pretended(1, first.sent)
    known = all_gather_groups(groups[2:], second)

    assert [group.local for group in known] == [False, False, True]
    assert known[2] is groups[2]
    assert [group.scene_index for group in known] == [0, 1, 2]
    advantages = compute_advantages(known, "batch_std")
    assert advantages.values.equal(compute_advantages(groups, "batch_std").values)
    assert rollout_metrics(known, advantages) == rollout_metrics(groups, advantages)
    batch, whole = training_batch(known, advantages), training_batch(groups, advantages)
    assert (batch.counts, batch.origins) == (whole.counts, whole.origins)
    assert batch.local_rows == [row for row, (scene, _) in enumerate(whole.origins) if scene == 2]

    pixels = sum(i.pixels.nbytes for i in groups[0].rollouts[0].buffer.images)
    assert len(first.sent) < pixels  # six rollouts in less than the images of one
    mine = groups[0].rollouts[0].buffer.images[0]
    assert mine.pixels.strides != (0, 0, 0)  # all its pixels are there


def test_a_process_alone_keeps_its_groups_as_they_are():
    groups = [object(), object()]
    assert all_gather_groups(groups, DistributedContext()) == groups
