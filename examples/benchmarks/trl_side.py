"""TRL's side of ``grpo_vs_trl.py``: runs in TRL's own environment, prints one JSON line.

Needs ``trl`` and torchvision, and neither this project nor a network. Two turns need a hook: random
weights call no tool, so TRL's parser of tool calls is told to read one out of every first turn.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import trl.trainer.grpo_trainer as trl_module
from datasets import Dataset, Features, Image, List, Value
from grpo_workload import MODEL_FOLDER, Run, Workload, fingerprint, peak_megabytes, regions_of
from grpo_workload import reward as reward_of
from PIL import Image as Pillow
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

SETTINGS: dict[str, dict[str, Any]] = {
    "fp32 weights, bf16 products": {"bf16": True},
    "fp32": {"bf16": False},
    "bf16 weights": {"bf16": False, "dtype": torch.bfloat16},
    "fp32 weights, bf16 products, 4 micro-batches": {"bf16": True, "micro_batches": 4},
}
"""Ways to set TRL up that are worth a try on a CPU."""

TOOL_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ 'user' if message.role == 'tool' else message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model's own template, with tools: what a tool says comes from the user, as on our side."""


class Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        """Start empty."""
        self.ends: list[float] = []
        self.cpu: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


class Trainer(GRPOTrainer):
    """TRL's trainer, with a note of how long sampling and scoring take and of the first prompts."""

    playing: list[float]
    lengths: list[int]
    """Tokens the policy sampled, of every rollout so far."""
    totals: list[int]
    """All tokens of every rollout so far."""
    first_prompts: list[list[int]]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began = time.perf_counter()
        batch = super()._generate_and_score_completions(inputs)
        if not hasattr(self, "playing"):
            self.playing, self.lengths, self.totals = [], [], []
            rows = zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
            prompts = [ids[mask.bool()].tolist() for ids, mask in rows]
            self.first_prompts = prompts[:: self.num_generations]
        there = batch["completion_mask"]
        self.lengths += (there * batch.get("tool_mask", 1)).sum(1).int().tolist()
        self.totals += (batch["prompt_mask"].sum(1) + there.sum(1)).int().tolist()
        self.playing.append(time.perf_counter() - began)
        return batch


class LookEnvironment:
    """What the environment of this project shows for a look, by Pillow alone."""

    work: Workload
    folder: Path

    def reset(self, scene: int, **_: Any) -> None:
        """Open the scene of a row."""
        self._image = Pillow.open(scene_file(self.folder, scene, "scene")).convert("RGB")

    def look(self, regions: list[list[int]]) -> list[dict[str, Any]]:
        """Show regions enlarged.

        Args:
            regions: boxes in the view frame.

        Returns:
            A line for each region and its crop after it, then what is left.
        """
        scale = self.work.scene / self.work.view
        size = (self.work.crop, self.work.crop)
        parts: list[dict[str, Any]] = []
        for number, box in enumerate(regions):
            source = [value * scale for value in box]
            crop = self._image.resize(size, Pillow.Resampling.BICUBIC, box=source)
            times = self.work.crop / (source[2] - source[0])
            line = f"[{','.join(map(str, box))}] {times:.1f}x"
            parts.append({"type": "text", "text": "\n" + line if number else line})
            parts.append({"type": "image", "image": crop})
        return [*parts, {"type": "text", "text": "\n" + self.work.after_crops}]


def scene_file(folder: Path, scene: int, kind: str) -> Path:
    """Return where the overview (``view``) or the source image (``scene``) of a scene lies."""
    return folder / f"{kind}_{scene:04d}.bmp"


def dataset(work: Workload, folder: Path) -> Dataset:
    """Return one row per scene, in the order they are played."""
    content = [{"type": "image", "text": None}, {"type": "text", "text": work.prompt}]
    rows = [
        {
            "prompt": [{"role": "user", "content": content}],
            "images": [{"path": None, "bytes": scene_file(folder, i, "view").read_bytes()}],
            "scene": i,
        }
        for i in range(work.scenes)
    ]
    part = {"type": Value("string"), "text": Value("string")}
    message = {"role": Value("string"), "content": List(part)}
    features = {"prompt": List(message), "images": List(Image()), "scene": Value("int64")}
    return Dataset.from_list(rows, features=Features(features))


def looks_first(work: Workload, tokenizer: Any, image_token: int) -> Callable[..., dict[str, Any]]:
    """Return a parser that reads a call of ``look`` out of every first turn."""

    def parse(_: Any, ids: Sequence[int], prefix: Sequence[int], **__: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": tokenizer.decode(ids)}
        if prefix.count(image_token) > (work.view // 32) ** 2:
            return message  # crops are there already
        arguments = {"regions": regions_of(ids, work.view)}
        call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
        return message | {"tool_calls": [call]}

    return parse


def measure(work: Workload, folder: Path, setting: str) -> Run:
    """Run the workload and say what it took."""
    options = dict(SETTINGS[setting])
    dtype, pieces = options.pop("dtype", torch.float32), options.pop("micro_batches", 1)
    processor = AutoProcessor.from_pretrained(folder / MODEL_FOLDER, trust_remote_code=False)
    model = AutoModelForImageTextToText.from_pretrained(folder / MODEL_FOLDER, dtype=dtype)
    tokenizer = processor.tokenizer
    image_token = tokenizer.convert_tokens_to_ids(processor.image_token)

    def even_digits(completions: list[Any], **_: Any) -> list[float]:
        said = [[m["content"] for m in c if m["role"] == "assistant"] for c in completions]
        return [reward_of("".join(texts)) for texts in said]

    extra: dict[str, Any] = {}
    longest = work.new_tokens
    if work.turns > 1:
        processor.chat_template = tokenizer.chat_template = TOOL_TEMPLATE
        tokenizer.response_schema = {}
        trl_module.parse_response = looks_first(work, tokenizer, image_token)
        LookEnvironment.work, LookEnvironment.folder = work, folder
        extra["environment_factory"] = LookEnvironment
        # TRL has no limit per turn; its limit per rollout counts what tools say, images included.
        options |= {"max_tool_calling_iterations": work.turns - 1}
        options |= {"generation_kwargs": {"max_new_tokens": work.new_tokens}}
        longest = work.token_budget
    args = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        max_steps=work.warmup + work.steps,
        per_device_train_batch_size=work.rollouts // pieces,
        gradient_accumulation_steps=pieces,
        num_generations=work.group_size,
        max_completion_length=longest,
        num_iterations=1,
        beta=0.0,
        epsilon=work.clip_low,
        epsilon_high=work.clip_high,
        loss_type="dapo",
        scale_rewards="batch",
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=work.seed,
        **options,
    )
    clock = Clock()
    trainer = Trainer(
        model,
        even_digits,
        args=args,
        train_dataset=dataset(work, folder),
        processing_class=processor,
        callbacks=[clock],
        **extra,
    )
    trainer.train()
    ends = clock.ends[work.warmup - 1 :]
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    timed = slice(-work.rollouts * work.steps, None)
    lengths = trainer.lengths[timed]
    playing = sum(trainer.playing[-work.steps :]) / work.steps
    packages = ("torch", "transformers", "trl")
    return Run(
        side="trl",
        setting=setting,
        step_seconds=seconds,
        cpu_seconds=clock.cpu[-1] - clock.cpu[work.warmup - 1],
        rollouts=len(lengths),
        sampled_tokens=sum(lengths),
        total_tokens=sum(trainer.totals[timed]),
        lengths=(min(lengths), max(lengths)),
        prompt_tokens=len(trainer.first_prompts[0]),
        prompts=fingerprint(trainer.first_prompts),
        megabytes=peak_megabytes(),
        phases={
            "rollout and environment": playing,
            "update": sum(seconds) / work.steps - playing,
        },
        versions={name: importlib.metadata.version(name) for name in packages},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the workload")
    parser.add_argument("--setting", choices=list(SETTINGS), default=next(iter(SETTINGS)))
    arguments = parser.parse_args()
    work = Workload.load(arguments.folder)
    print(measure(work, arguments.folder, arguments.setting).to_line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
