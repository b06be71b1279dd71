"""GRPO of this project and of TRL on the same work: rollouts and tokens per second, memory.

    python examples/benchmarks/grpo_vs_trl.py --setup /somewhere/venv-trl     # once
    python examples/benchmarks/grpo_vs_trl.py --trl /somewhere/venv-trl

Both sides load the same tiny Qwen3-VL with random weights from one folder and train it: the same
scenes and prompts (compared token by token), group size, reward, clip and optimizer, all weights
learning, one update on each batch of 4 groups of 8 rollouts. The weights are made so that the end
of turn is never sampled: each rollout is exactly 94 tokens long on both sides, without a hook in
either. Every run is a process of its own on the same cores, ours and TRL's in turns; the first
steps are not timed. TRL is tried in several settings, and the fastest one plays, also when that is
the one whose bf16 weights lose small updates.

``--multi-turn`` adds a look with two crops between two turns, on TRL's side as a call of a tool of
its ``environment_factory``. Random weights neither look nor call, so on both sides a hook reads the
regions out of the tokens of the first turn. TRL has no limit per turn: its ``generate`` is given
one. It also leaves a turn that hits the limit open, where we close it with one token.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from dip_side import scenes_of
from grpo_workload import MODEL_FOLDER, Run, Workload, check_same_work, heading, paired_ratios
from random_weights import silence

from dip_agents import VLM, save_model
from dip_agents.models.tiny.model import Size, build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_env import Episode, EpisodeConfig
from dip_env.views import View, overview

HERE = Path(__file__).parent
TRL_VERSION = "trl==1.16.*"
SAME_VERSION = ("torch", "transformers", "torchvision", "pillow")
"""What TRL's side runs on too."""
TRL_SETTINGS = (
    "fp32 weights, bf16 products",
    "fp32",
    "bf16 weights",
    "fp32 weights, bf16 products, 4 micro-batches",
)
SINGLE_TURN = Workload()
MULTI_TURN = Workload(turns=2, new_tokens=47, scene=1024)
SMOKE: dict[str, int] = {
    "groups": 2,
    "group_size": 4,
    "new_tokens": 24,
    "warmup": 1,
    "steps": 1,
    "view": 64,
    "crop": 64,
    "scene": 128,
}
"""Changes to a workload that make it small: they show that both sides still do the same work."""


def packages() -> list[str]:
    """Return what pip installs for TRL: torch and transformers in the versions that run here."""
    # Without local parts such as +cpu, which package indexes do not know.
    same = [f"{name}=={version(name).partition('+')[0]}" for name in SAME_VERSION]
    return [TRL_VERSION, *same]


def set_up(folder: Path) -> None:
    """Make TRL's environment with pip."""
    venv.create(folder, with_pip=True)
    subprocess.run([str(python_of(folder)), "-m", "pip", "install", *packages()], check=True)


def python_of(folder: Path) -> Path:
    """Return the interpreter of an environment."""
    return folder / "bin" / "python"


def rules_of(work: Workload) -> EpisodeConfig:
    """Return the rules of the environment for a workload."""
    return EpisodeConfig(
        view_size=work.view,
        crop_size=work.crop,
        size_multiple=32,
        max_looks=work.turns - 1,
        max_regions=2,
        max_turns=work.turns,
        minimal_prompt=True,
    )


def prepare(work: Workload, folder: Path, size: Size = "tiny") -> None:
    """Write what both sides read: the model, the workload, and the images for TRL.

    Args:
        work: the task.
        folder: an empty folder.
        size: of the model.
    """
    model, processor = build_tiny(tiny_texts(), seed=work.seed, size=size)
    silence(model, processor)
    rules = rules_of(work)
    save_model(VLM(model, processor), folder / MODEL_FOLDER, rules)
    source = scenes_of(work)
    work = with_texts(work, Episode(source[0], rules))
    for i in range(work.scenes):
        image = source[i].image
        view = View.of(image.size, rules.view_size, rules.size_multiple, rules.coordinate_format)
        # Uncompressed, so that TRL's side loses no time on decoding.
        overview(image, view).save(folder / f"view_{i:04d}.bmp")
        if work.turns > 1:
            image.save(folder / f"scene_{i:04d}.bmp")
    work.save(folder)


def with_texts(work: Workload, episode: Episode) -> Workload:
    """Return the workload with what the environment says in an episode of it."""
    work = replace(work, prompt=episode.opening.text)
    if work.turns == 1:
        return work
    reply = episode.step(f"<look>[[0,0,{work.view},{work.view}]]</look>").message
    assert reply is not None
    return replace(work, after_crops=reply.text.rpartition("\n")[2])


def run_side(command: list[str], threads: int) -> Run:
    """Run one side in its own process.

    Raises:
        RuntimeError: when it fails; ends with what it wrote to standard error.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return Run.from_output(done.stdout)


def ours(folder: Path, threads: int, profile: Path | None = None) -> Run:
    """Run our side."""
    extra = ["--profile", str(profile)] if profile else []
    return run_side([sys.executable, str(HERE / "dip_side.py"), str(folder), *extra], threads)


def theirs(python: Path, folder: Path, threads: int, setting: str) -> Run:
    """Run TRL's side."""
    command = [str(python), str(HERE / "trl_side.py"), str(folder), "--setting", setting]
    return run_side(command, threads)


def fastest(tried: dict[str, Run]) -> str:
    """Return the setting with the fastest step, which other jobs disturb least."""
    return min(tried, key=lambda name: min(tried[name].step_seconds))


def table(pairs: list[tuple[Run, Run]]) -> list[str]:
    """Return the Markdown table of paired runs."""
    columns = [("this project", [a for a, _ in pairs]), ("TRL", [b for _, b in pairs])]
    rows = [
        ("rollouts/s", lambda run: run.rollouts_per_second, "{:.1f}"),
        ("sampled tokens/s", lambda run: run.tokens_per_second, "{:.0f}"),
        ("seconds per step", lambda run: run.seconds / len(run.step_seconds), "{:.2f}"),
        ("fastest step, s", lambda run: min(run.step_seconds), "{:.2f}"),
        ("CPU ms per rollout", lambda run: 1000 * run.cpu_seconds / run.rollouts, "{:.0f}"),
        ("peak memory, MB", lambda run: run.megabytes, "{:.0f}"),
    ]
    lines = ["| | this project | TRL | ratio (range over pairs) |", "|---|---:|---:|---:|"]
    for name, value, form in rows:
        values = [[value(run) for run in runs] for _, runs in columns]
        ratio = paired_ratios(*values)
        shown = [form.format(sorted(side)[len(side) // 2]) for side in values]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {ratio} |")
    return lines


def phases(runs: list[Run]) -> str:
    """Return where the time of one side's median run went, in milliseconds per step."""
    run = sorted(runs, key=lambda r: r.seconds)[len(runs) // 2]
    return ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in run.phases.items())


def describe(work: Workload, run: Run) -> str:
    """Return the task in one sentence."""
    turn = "one turn" if work.turns == 1 else f"{work.turns} turns, two crops after the first"
    return (
        f"{work.groups} groups of {work.group_size}, {turn}, prompt {run.prompt_tokens} tokens "
        f"with one image of {work.view}x{work.view}, {run.lengths[0]} sampled tokens per rollout, "
        f"{work.warmup} steps of warm-up, {work.steps} timed."
    )


def compare(arguments: argparse.Namespace, work: Workload, folder: Path) -> None:
    """Run both sides in turns and print everything."""
    python = python_of(arguments.trl)
    settings = [arguments.setting] if arguments.setting else list(TRL_SETTINGS)
    tried: dict[str, Run] = {}
    if len(settings) > 1:
        for name in settings:
            tried[name] = theirs(python, folder, arguments.threads, name)
            print(f"TRL, {name}: {min(tried[name].step_seconds):.2f} s", file=sys.stderr)
    chosen = fastest(tried) if tried else settings[0]
    pairs = []
    for _ in range(arguments.pairs):
        pair = (
            ours(folder, arguments.threads),
            theirs(python, folder, arguments.threads, chosen),
        )
        check_same_work(*pair, turns=work.turns)
        pairs.append(pair)
        for run in pair:
            print(run.to_line(), file=sys.stderr)
    lines = []
    if arguments.markdown:
        given = " ".join(a for a in sys.argv[1:] if a != "--markdown")
        command = f"python examples/benchmarks/grpo_vs_trl.py {given}"
        title = "two turns with crops" if work.turns > 1 else "one turn"
        command = command.replace(str(arguments.trl), "VENV")
        lines += heading(f"GRPO against TRL, {title}", command, "no GPU used")
    lines += [describe(work, pairs[0][0]), "", *table(pairs), ""]
    lines.append(f"- This project ({pairs[0][0].setting}): {phases([a for a, _ in pairs])}.")
    lines.append(f"- TRL ({chosen}): {phases([b for _, b in pairs])}.")
    if tried:
        others = ", ".join(f"{n} {min(r.step_seconds):.2f} s" for n, r in tried.items())
        lines.append(f"- TRL's settings were tried once each; their fastest step: {others}.")
    versions = {**pairs[0][1].versions, **pairs[0][0].versions}
    lines.append("- " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".")
    print("\n".join(lines))


def alone(arguments: argparse.Namespace, work: Workload, folder: Path) -> None:
    """Run our side only and say so."""
    run = ours(folder, arguments.threads, arguments.profile)
    print(f"Our side only. {describe(work, run)}")
    print(
        f"{run.rollouts_per_second:.1f} rollouts/s, {run.tokens_per_second:.0f} sampled tokens/s, "
        f"{run.megabytes:.0f} MB; {phases([run])}"
    )
    if arguments.profile:
        print(f"profile: {arguments.profile}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", type=Path, help="make TRL's environment in this new folder")
    parser.add_argument("--trl", type=Path, help="TRL's environment; without it, ours runs alone")
    parser.add_argument("--multi-turn", action="store_true", help="a look between two turns")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, help="timed steps per run")
    parser.add_argument("--warmup", type=int, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    parser.add_argument("--setting", choices=TRL_SETTINGS, help="of TRL; the fastest by default")
    parser.add_argument("--profile", type=Path, help="write where our time goes; ours runs alone")
    parser.add_argument("--markdown", action="store_true", help="print a section for RESULTS.md")
    parser.add_argument("--smoke", action="store_true", help="a tiny task; its times say nothing")
    arguments = parser.parse_args()
    if arguments.setup:
        set_up(arguments.setup)
        return 0
    if arguments.trl and not python_of(arguments.trl).is_file():
        parser.error(f"--trl: expected an environment, make it with --setup {arguments.trl}")
    work = MULTI_TURN if arguments.multi_turn else SINGLE_TURN
    changes = {k: v for k in ("steps", "warmup") if (v := getattr(arguments, k)) is not None}
    work = replace(work, **(SMOKE if arguments.smoke else {}), **changes)
    with tempfile.TemporaryDirectory() as name:
        prepare(work, Path(name), "micro" if arguments.smoke else "tiny")
        if arguments.trl and not arguments.profile:
            compare(arguments, work, Path(name))
        else:
            alone(arguments, work, Path(name))
            if not arguments.trl:
                print("TRL: not run; make its environment with --setup FOLDER, then --trl FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main())
