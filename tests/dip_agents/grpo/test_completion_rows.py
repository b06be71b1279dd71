"""Each rollout of a step is one row of the completions table."""

import json
from dataclasses import replace

import torch

from dip_agents.grpo.branches import Branch
from dip_agents.grpo.completion_rows import completion_rows
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats
from dip_agents.runtime.completions import write_completions
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.result import Ending


def rollout(text, reward):
    buffer = TokenBuffer(image_token_id=99)
    buffer.append_env([1])
    buffer.append_policy([2, 3], [-1.0, -1.0])
    transcript = ({"role": "user", "text": "Find é"}, {"role": "assistant", "text": text})
    stats = RolloutStats(1, 2, 0.5, 3, 4, 0, Ending.MAX_TURNS, transcript=transcript)
    return Rollout(buffer, reward, {"look": 0.5}, stats)


def test_a_row_holds_scores_lengths_and_texts_of_its_rollout(tmp_path):
    groups = [RolloutGroup(41, [rollout("<answer>[]", 0.0), rollout("```", 1.0)])]
    path = write_completions(tmp_path, completion_rows(3, groups, torch.tensor([[-1.0, 1.0]])))
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first == {
        "step": 3,
        "scene": 41,
        "member": 0,
        "reward": 0.0,
        "terms": {"look": 0.5},
        "advantage": -1.0,
        "length": 3,
        "policy_tokens": 2,
        "turns": 1,
        "regions": 2,
        "ending": "max_turns",
        "transcript": [
            {"role": "user", "text": "Find é"},
            {"role": "assistant", "text": "<answer>[]"},
        ],
    }
    assert (second["member"], second["advantage"]) == (1, 1.0)


def test_a_row_of_a_rollout_that_shares_a_look_names_it_and_blank_crops(tmp_path):
    branch = Branch(look=1, answer=3, turns=1, tokens=2, looked=True, blank=True)
    group = RolloutGroup(41, [replace(rollout("a", 0.0), branch=branch)])
    (row,) = completion_rows(3, [group], torch.zeros(1, 1))
    assert (row["look"], row["blank_crops"]) == (1, True)
    path = write_completions(tmp_path, [row])
    assert ", crops blanked" in path.with_suffix(".md").read_text(encoding="utf-8")
