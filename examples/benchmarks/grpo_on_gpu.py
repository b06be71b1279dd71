"""GRPO on one GPU at the size of a real model: where a step's time goes, and what each trick saves.

    python examples/benchmarks/grpo_on_gpu.py                  # an estimated 100 GB of GPU memory
    python examples/benchmarks/grpo_on_gpu.py --lora-rank 32   # an estimated 45 GB
    python examples/benchmarks/grpo_on_gpu.py --smoke          # the same code, tiny, on a CPU

A model of the shape of Qwen2.5-VL-3B with random weights (nothing is downloaded) plays two turns
with two crops between them, every turn of an exact length, and learns from them. Each row switches
one trick off and leaves the others on. Prints one JSON line per row, then a Markdown table.

What the columns mean: ``step`` is wall time, sampling and learning. ``environment`` and ``sync``
are parts of ``rollout``: the one mostly runs beside the decoding, the other copies the weights into
the sampler's layout. ``forward`` is the part of ``update`` that computes logprobs. MFU is
explained in ``step_flops.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from dip_side import Drawn, Trained, train
from grpo_workload import Workload, heading, peak_megabytes
from random_weights import TEXT_3B, TEXT_SMOKE, VISION_3B, VISION_SMOKE, qwen2_5_vl
from step_flops import FORWARD, FULL_UPDATE, LORA_UPDATE, Work, flops, peak_flops, wait

from dip_agents import VLM, HFEngine
from dip_agents.models.base import TokenLogprobs
from dip_agents.models.lora import LANGUAGE_LINEARS
from dip_agents.tokens import TokenBuffer
from dip_env import EpisodeConfig

REAL = Workload(
    groups=8, turns=2, new_tokens=192, warmup=2, steps=4, view=448, crop=224, scene=1024,
    learning_rate=1e-6, token_budget=2048,
)  # fmt: skip
SMOKE = Workload(
    groups=2, group_size=4, turns=2, new_tokens=24, warmup=1, steps=2, view=112, crop=56,
    scene=128, token_budget=256,
)  # fmt: skip
MULTIPLE = 28
"""Sides of images are multiples of this many pixels: a patch is 14, a token 2 x 2 patches."""


@contextmanager
def _each_member_repeats_the_prompt(vlm: VLM) -> Iterator[None]:
    held, vlm.shares_prefix = vlm.shares_prefix, False
    log = logging.getLogger("dip_agents.models.vlm")
    level = log.level
    log.setLevel(logging.ERROR)  # it would warn, and here it is meant
    try:
        yield
    finally:
        vlm.shares_prefix = held
        log.setLevel(level)


@contextmanager
def _all_logits_at_once(vlm: VLM) -> Iterator[None]:
    vlm.head.weight = lambda: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del vlm.head.weight


@contextmanager
def _stock_vision(vlm: VLM) -> Iterator[None]:
    visual = vlm.core.model.visual
    parts = [visual, visual.patch_embed, *(block.attn for block in visual.blocks)]
    fast = [part.__dict__.pop("forward", None) for part in parts]
    held, vlm.vision.fast = vlm.vision.fast, False
    try:
        yield
    finally:
        vlm.vision.fast = held
        for part, forward in zip(parts, fast, strict=True):
            if forward is not None:
                part.forward = forward


SWITCHES: dict[str, Callable[[VLM], AbstractContextManager[None]]] = {
    "everything on": lambda vlm: nullcontext(),
    "without shared prefix": _each_member_repeats_the_prompt,
    "without tiled head": _all_logits_at_once,
    "without CUDA graphs": lambda vlm: nullcontext(),  # a choice of the engine
    "without fast vision": _stock_vision,
}
"""What is switched off alone; none of them changes what is computed, only how fast."""


class TimedModel:
    """What the trainer sees of the model, with the time of its forward passes.

    Args:
        vlm: the model.
    """

    def __init__(self, vlm: VLM) -> None:
        """Start at 0 seconds."""
        self.vlm = vlm
        self.trainable_parameters = vlm.trainable_parameters
        self.state_dict = vlm.state_dict
        self.load_state_dict = vlm.load_state_dict
        self.seconds: list[float] = []

    def token_logprobs(
        self, buffers: Sequence[TokenBuffer], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Run the model's own, and wait for the device before and after."""
        wait(self.vlm.device)
        began = time.perf_counter()
        found = self.vlm.token_logprobs(buffers, temperature)
        wait(self.vlm.device)
        self.seconds.append(time.perf_counter() - began)
        return found


class TimedEngine(HFEngine):
    """A sampler that notes how long it takes to copy the weights, from its second play on."""

    def __init__(self, vlm: VLM, cuda_graphs: bool) -> None:
        """Start with nothing measured."""
        super().__init__(vlm, cuda_graphs=cuda_graphs)
        self.seconds: list[float] = []

    def play(self, *arguments: Any) -> None:
        """Play as ever; the decoder is there after the first time."""
        if self._decoder is not None and not self.seconds:
            self._decoder.refresh = self._timed(self._decoder.refresh)  # type: ignore[method-assign]
        super().play(*arguments)

    def _timed(self, refresh: Callable[[], None]) -> Callable[[], None]:
        def timed() -> None:
            wait(self.vlm.device)
            began = time.perf_counter()
            refresh()
            wait(self.vlm.device)
            self.seconds.append(time.perf_counter() - began)

        return timed


@dataclass(frozen=True)
class Row:
    """One row of the table; times are means over the timed steps."""

    switch: str
    step: float
    rollout: float
    environment: float
    forward: float
    update: float
    sync: float
    sampled_per_second: float
    rollouts_per_second: float
    mfu_update: float
    mfu_step: float
    peak_gib: float


def build(smoke: bool, device: torch.device, lora_rank: int) -> VLM:
    """Return the model, all of it or a LoRA ready to learn."""
    text, vision = (TEXT_SMOKE, VISION_SMOKE) if smoke else (TEXT_3B, VISION_3B)
    model, processor = qwen2_5_vl(text, vision, device)
    if lora_rank:
        from peft import LoraConfig, get_peft_model

        targets = LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=LANGUAGE_LINEARS)
        model = get_peft_model(model, targets)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    return VLM(model.eval(), processor, torch.bfloat16)


def rules_of(work: Workload) -> EpisodeConfig:
    """Return the rules of the episodes."""
    return EpisodeConfig(
        view_size=work.view,
        crop_size=work.crop,
        size_multiple=MULTIPLE,
        max_looks=work.turns - 1,
        max_regions=2,
        max_turns=work.turns,
        minimal_prompt=True,
    )


def measure(
    switch: str, vlm: VLM, work: Workload, source: Drawn, peak: float, micro_batch_tokens: int
) -> Row:
    """Train with one trick switched off."""
    engine = TimedEngine(vlm, cuda_graphs=switch != "without CUDA graphs")
    policy = TimedModel(vlm)
    if vlm.device.type == "cuda":
        torch.cuda.empty_cache()
    with SWITCHES[switch](vlm):
        done = train(
            work, vlm, rules_of(work), engine=engine, source=source, policy=policy,
            micro_batch_tokens=micro_batch_tokens,
        )  # fmt: skip
    return row_of(switch, vlm, work, done, peak, policy, engine)


def row_of(
    switch: str, vlm: VLM, work: Workload, done: Trained, peak: float,
    policy: TimedModel, engine: TimedEngine,
) -> Row:  # fmt: skip
    """Sum up one run."""
    rollout, update = done.timed(work, "time/collect"), done.timed(work, "time/update")
    ends = done.clock.ends[work.warmup - 1 :]
    step = (ends[-1] - ends[0]) / work.steps
    per_step = Work.of(done.groups[: work.groups])
    learning = flops(vlm, per_step, FULL_UPDATE if vlm.model is vlm.core else LORA_UPDATE)
    sampling = flops(vlm, per_step, FORWARD)
    passes = len(policy.seconds) // (work.warmup + work.steps) * work.steps
    memory = [row.get("memory/peak_gib", peak_megabytes() / 1024) for row in done.clock.rows]
    return Row(
        switch=switch,
        step=step,
        rollout=rollout,
        environment=done.timed(work, "time/environment"),
        forward=sum(policy.seconds[-passes:]) / work.steps,
        update=update,
        sync=sum(engine.seconds[-work.steps :]) / work.steps,
        sampled_per_second=per_step.sampled / step,
        rollouts_per_second=work.rollouts / step,
        mfu_update=learning / update / peak,
        mfu_step=(learning + sampling) / step / peak,
        peak_gib=max(memory),
    )


def table(rows: Sequence[Row]) -> list[str]:
    """Return the rows as a Markdown table; times in seconds, the last column against the first."""
    names = [field.name for field in fields(Row)][1:]
    head = [name.replace("_per_second", "/s").replace("_", " ") for name in names]
    lines = [f"| | {' | '.join(head)} | step over the first |", "|---|" + "---:|" * (len(head) + 1)]
    for row in rows:
        values = asdict(row)
        shown = " | ".join(f"{values[name]:.3g}" for name in names)
        lines.append(f"| {row.switch} | {shown} | {row.step / rows[0].step:.2f} x |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --smoke")
    parser.add_argument("--smoke", action="store_true", help="the same code path, tiny, on a CPU")
    parser.add_argument("--lora-rank", type=int, default=0, help="above 0, a LoRA learns")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096, help="of the update")
    parser.add_argument("--only", nargs="+", choices=list(SWITCHES), help="these rows only")
    parser.add_argument("--markdown", action="store_true", help="print a section for RESULTS.md")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.smoke else arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected a CUDA device, there is none; --smoke needs none")
    work = SMOKE if arguments.smoke else REAL
    vlm = build(arguments.smoke, device, arguments.lora_rank)
    peak = peak_flops(device, 256 if arguments.smoke else 8192, 0.1 if arguments.smoke else 2.0)
    source, rows = Drawn(work), []
    for switch in arguments.only or SWITCHES:
        row = measure(switch, vlm, work, source, peak, arguments.micro_batch_tokens)
        print(json.dumps(asdict(row)), flush=True)
        rows.append(row)
    if arguments.markdown:
        given = [a for a in sys.argv[1:] if a != "--markdown"]
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU only"
        command = " ".join(["python examples/benchmarks/grpo_on_gpu.py", *given])
        print("\n".join(["", *heading("GRPO on one GPU", command, machine)]))
    print(f"\npeak of matrix products: {peak / 1e12:.1f} TFLOP/s")
    print("\n".join(["", *table(rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
