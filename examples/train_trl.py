"""The environment in TRL's GRPOTrainer: a single message, or tools over several turns.

    pip install "dip-env[trl]"
    python examples/train_trl.py                   # the bundled model, minutes on a CPU
    python examples/train_trl.py --form tools --model Qwen/Qwen2.5-VL-3B-Instruct

The bundled model was trained to look first and to answer later, and no tools: here it answers at
once, without looks. Models that follow instructions name their looks in the same message, or call
`look` and `answer` and see the crops.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from trl import GRPOConfig, GRPOTrainer

from dip_agents import load_model, save_model
from dip_agents.adapters import Task
from dip_agents.adapters.trl import (
    banned_tokens,
    dip_rewards,
    environment_factory,
    single_pass_reward,
    trl_dataset,
    use_tool_template,
)


@dataclass(frozen=True)
class Settings:
    """What is learned, and how long."""

    model: str = "tiny"
    """tiny (bundled), a folder, or a hub name of the Qwen-VL families."""
    form: Literal["single_pass", "tools"] = "single_pass"
    """Looks and answer in one message, or tools over several turns."""
    scenes: str = "night"
    """Preset of the scenes."""
    steps: int = 30
    """Updates."""
    scenes_per_step: int = 4
    """Groups of an update."""
    group_size: int = 8
    """Rollouts of each scene."""
    max_completion_length: int = 224
    """Tokens behind the prompt; for tools those of all turns and crops, such as 2048."""
    learning_rate: float = 6e-5
    """Of all weights."""
    temperature: float = 0.5
    """Of sampling."""
    out: Path = Path("runs/trl")
    """Folder of the model."""


def main(settings: Settings) -> None:
    loaded = load_model(settings.model)
    model, processor = loaded.vlm.model, loaded.vlm.processor
    processor.tokenizer.padding_side = "left"
    rules = asdict(loaded.rules)
    rules |= rules.pop("reward")
    if settings.form == "single_pass":
        # A minimal prompt cannot ask for looks and answer in one message.
        rules |= {
            "max_turns": 1,
            "max_looks": 0 if loaded.rules.minimal_prompt else rules["max_looks"],
        }
    task = Task(settings.scenes, **rules)
    args = GRPOConfig(
        output_dir=str(settings.out),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.scenes_per_step * settings.group_size,
        num_generations=settings.group_size,
        max_completion_length=settings.max_completion_length,
        temperature=settings.temperature,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        generation_kwargs=banned_tokens(processor),  # or a sampled placeholder costs all images
        bf16=torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    scenes = range(settings.steps * settings.scenes_per_step)
    if settings.form == "tools":
        use_tool_template(processor)
        trainer = GRPOTrainer(
            model, dip_rewards(task, args), args, trl_dataset(task, scenes),
            processing_class=processor,
            environment_factory=environment_factory(task, processor, args),
        )  # fmt: skip
    else:
        trainer = GRPOTrainer(
            model, single_pass_reward(task, processor, args), args,
            trl_dataset(task, scenes, "single_pass"), processing_class=processor,
        )  # fmt: skip
    trainer.train()
    for line in trainer.state.log_history:
        if "reward" in line:
            print(f"step {line['step']}: reward {line['reward']:.3f}, ", end="")
            print(f"accuracy {line['reward/accuracy']:.3f}, {line['step_time']:.1f} s")
    print(f"the model is in {save_model(loaded.vlm, settings.out, task.config)}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__.splitlines()[0]))
