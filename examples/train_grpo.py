"""The bare GRPO loop in one file: collect rollouts, compare them, weigh the tokens, step.

    python examples/train_grpo.py --steps 20

``dip train`` does the same with checkpoints, logs and evaluation; read this to see what it does.
The bundled ``tiny`` model was trained on demonstrations and learns from rewards at once. A model
with random weights (``tiny-untrained``) earns no reward, so all its advantages are 0: fine-tune it
first with ``dip sft``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from dip_agents import (
    HFEngine,
    Sampling,
    collect_rollouts,
    group_advantages,
    load_model,
    policy_loss,
    save_model,
)
from dip_agents.objectives import Clips, SurrogateInputs
from dip_env import make_source


@dataclass(frozen=True)
class Settings:
    """The settings."""

    model: str = "tiny"
    """tiny, tiny-untrained, a folder, or a hub name."""
    scenes: str = "easy"
    """A preset (easy, far, crowd, night, drone, dense)."""
    steps: int = 20
    """Batches of rollouts."""
    scenes_per_step: int = 4
    """P, scenes of a batch."""
    group_size: int = 8
    """G, rollouts of each scene; they are compared with each other only."""
    updates_per_batch: int = 2
    """Optimizer steps on each batch; from the second on, the clip has something to do."""
    micro_batch: int = 8
    """Rollouts that go through the model at once."""
    learning_rate: float = 1e-4
    """Of AdamW."""
    clip_low: float = 0.2
    """How far a token's ratio may fall below 1 before its gradient is cut."""
    clip_high: float = 0.28
    """How far it may rise above 1."""
    max_new_tokens: int = 160
    """Tokens of one turn."""
    token_budget: int = 640
    """Tokens of one episode, images included."""
    seed: int = 0
    """Of scenes and sampling."""
    out: Path | None = None
    """Folder for the trained model, if it is to be kept."""


def main(settings: Settings) -> None:
    loaded = load_model(settings.model, seed=settings.seed)
    vlm = loaded.vlm
    engine = HFEngine(vlm)
    source = make_source(settings.scenes, seed=settings.seed)
    draw = random.Random(settings.seed)
    parameters = list(vlm.trainable_parameters())
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )

    for step in range(1, settings.steps + 1):
        # 1. Collect G rollouts of each scene. Each keeps exactly the tokens that were sampled.
        groups = collect_rollouts(
            engine,
            source,
            [draw.randrange(len(source)) for _ in range(settings.scenes_per_step)],
            settings.group_size,
            loaded.rules,
            seed=settings.seed,
            step=step,
            sampling=Sampling(1.0, settings.max_new_tokens, settings.token_budget),
        )

        # 2. How much better was each rollout than its siblings?
        rewards_P_G = torch.tensor([[r.reward for r in group.rollouts] for group in groups])
        advantages = group_advantages(rewards_P_G)

        # 3. Zero-variance groups have no advantage, and the token budget, not the policy, ended
        #    truncated rollouts: both are left out.
        buffers, values = [], []
        for row, group in enumerate(groups):
            for member, rollout in enumerate(group.rollouts):
                if advantages.informative[row] and not rollout.stats.truncated:
                    buffers.append(rollout.buffer)
                    values.append(float(advantages.values[row, member]))
        # The loss is a mean over the tokens of the whole batch, whatever the micro-batches.
        tokens = sum(sum(buffer.loss_mask[1:]) for buffer in buffers)
        starts = range(0, len(buffers), settings.micro_batch)

        # 4. Make tokens of better rollouts likelier, of worse ones less so, but not too far.
        old_logprobs: list[torch.Tensor] = []
        for _ in range(settings.updates_per_batch if buffers else 0):
            optimizer.zero_grad(set_to_none=True)
            for number, start in enumerate(starts):
                rows = slice(start, start + settings.micro_batch)
                now = vlm.token_logprobs(buffers[rows])
                if number == len(old_logprobs):
                    # The first update measures the policy that sampled: its ratio is exactly 1.
                    old_logprobs.append(now.logprobs.detach())
                inputs = SurrogateInputs(
                    now.logprobs,
                    old_logprobs[number],
                    torch.tensor(values[rows], device=vlm.device),
                    now.mask,
                )
                weights = torch.full((len(now.mask),), 1.0 / tokens, device=vlm.device)
                clips = Clips(settings.clip_low, settings.clip_high)
                loss = policy_loss(inputs, weights, kind="clipped", clips=clips).loss
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        informative = int(advantages.informative.sum())
        print(
            f"step {step:3}: reward {float(rewards_P_G.mean()):.3f}, "
            f"{informative} of {len(groups)} scenes with unequal rewards, {tokens} tokens",
            flush=True,
        )

    if settings.out is not None:
        save_model(vlm, settings.out, loaded.rules)
        print(f"model: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
