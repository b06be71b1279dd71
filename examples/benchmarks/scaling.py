"""What a GRPO step of a 7B model costs on 1, 8 and 64 GPUs, from sizes and rates.

    python examples/benchmarks/scaling.py
    python examples/benchmarks/scaling.py --efficiency 0.5 --episodes-per-second 350

Sizes are arithmetic on the shapes of the model and of a rollout. Rates are the data sheet's of one
GPU times ``--efficiency``, which is an assumption until ``grpo_on_gpu.py`` has measured it, and the
episodes per second and core of ``env_speed.py``. Decoding is limited by memory bandwidth: each step
of all rows reads the weights once and the keys and values of every row. Updates are limited by
arithmetic: 6 operations per weight and token, each prompt of a group once.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Model:
    """A language model in bfloat16; the default is the shape of Qwen2.5-VL-7B."""

    weights: float = 8.3e9
    layers: int = 28
    kv_heads: int = 4
    head_size: int = 128

    @property
    def weight_bytes(self) -> float:
        """Of all weights in bfloat16."""
        return 2 * self.weights

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_size

    @property
    def training_bytes(self) -> float:
        """Weights and gradients in bfloat16, and AdamW's two moments and a copy in float32."""
        return (2 + 2 + 12) * self.weights


@dataclass(frozen=True)
class Step:
    """The rollouts of one step; tokens as Qwen2.5-VL counts images (28 x 28 pixels each)."""

    groups: int = 64
    group_size: int = 8
    prompt: int = 256 + 110
    """An overview of 448 x 448 pixels and the task."""
    looks: int = 2
    crops: int = 3
    """Crops of 224 x 224 pixels per look."""
    sampled: int = 300
    """Tokens the policy writes in all turns."""

    @property
    def rollouts(self) -> int:
        """Of the step."""
        return self.groups * self.group_size

    @property
    def tokens(self) -> int:
        """Of one rollout: prompt, crops with their text, and what the policy writes."""
        return self.prompt + self.looks * (self.crops * 64 + 60) + self.sampled

    @property
    def unique_tokens(self) -> int:
        """That an update runs: each prompt once."""
        return self.groups * (self.prompt + self.group_size * (self.tokens - self.prompt))

    @property
    def pixel_bytes(self) -> int:
        """RGB of the crops of one rollout."""
        return self.looks * self.crops * 224 * 224 * 3

    @property
    def patch_bytes(self) -> int:
        """The same as the vision tower reads it: float32, every frame twice."""
        return self.pixel_bytes * 4 * 2


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind; the default is the data sheet of an H200."""

    gpus: int
    efficiency: float = 0.35
    bandwidth: float = 4.8e12
    operations: float = 989e12
    memory: float = 141 * GB
    link: float = 50 * GB
    """Bytes per second between machines: 400 Gbit/s."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the phases of one step, and what the environment needs to keep up."""

    decode: float
    prefill: float
    update: float
    sync: float
    workers: float
    traffic: float

    @property
    def total(self) -> float:
        """One phase after the other, as the synchronous loop runs them."""
        return self.decode + self.prefill + self.update + self.sync


def cost(model: Model, step: Step, cluster: Cluster, episodes_per_second: float) -> Cost:
    """Return what a step costs.

    Args:
        model: sampled and trained, a copy of it on every GPU while it samples.
        step: its rollouts, spread evenly over the GPUs.
        cluster: what it runs on.
        episodes_per_second: of one core of the environment.
    """
    rows = step.rollouts / cluster.gpus
    speed = cluster.efficiency * cluster.bandwidth
    # Over its turns a row is three quarters as long as at its end, about.
    read = model.weight_bytes + rows * model.kv_bytes * step.tokens * 0.75
    decode = step.sampled * read / speed
    flops = cluster.efficiency * cluster.operations * cluster.gpus
    prefill = 2 * model.weights * (step.unique_tokens - step.rollouts * step.sampled) / flops
    update = 6 * model.weights * step.unique_tokens / flops
    sync = 0.0 if cluster.gpus == 1 else model.weight_bytes / cluster.link
    seconds = decode + prefill
    return Cost(
        decode,
        prefill,
        update,
        sync,
        workers=step.rollouts / seconds / episodes_per_second,
        traffic=step.rollouts * step.pixel_bytes / seconds,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--efficiency", type=float, default=0.35, help="share of the data sheet")
    parser.add_argument(
        "--episodes-per-second", type=float, default=393.0, help="of one core, see env_speed.py"
    )
    arguments = parser.parse_args()
    model, step = Model(), Step()
    print(
        f"- weights {model.weight_bytes / GB:.1f} GB, training state of full fine-tuning "
        f"{model.training_bytes / GB:.0f} GB, keys and values {model.kv_bytes / 1024:.0f} KiB "
        "a token"
    )
    print(
        f"- a rollout: {step.tokens} tokens, crops {step.pixel_bytes / 1e6:.1f} MB as RGB, "
        f"{step.patch_bytes / 1e6:.1f} MB as patches; a step: {step.rollouts} rollouts, "
        f"{step.rollouts * step.tokens:,} tokens, {step.unique_tokens:,} with each prompt once\n"
    )
    print(
        "| GPUs | rows a GPU | KV cache a GPU, GB | decode s | prefill s | update s | sync s | "
        "rollouts/s | environment cores | crops, MB/s |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for gpus in (1, 8, 64):
        found = cost(
            model, step, Cluster(gpus, arguments.efficiency), arguments.episodes_per_second
        )
        rows = step.rollouts / gpus
        print(
            f"| {gpus} | {rows:.0f} | {rows * step.tokens * model.kv_bytes / GB:.1f} | "
            f"{found.decode:.1f} | {found.prefill:.1f} | {found.update:.1f} | {found.sync:.1f} | "
            f"{step.rollouts / found.total:.1f} | {found.workers:.2f} | {found.traffic / 1e6:.0f} |"
        )
    many = 1000 * arguments.episodes_per_second
    print(
        f"\n1,000 environment workers play {many:,.0f} episodes a second and send "
        f"{many * step.pixel_bytes / GB:.0f} GB of crops a second."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
