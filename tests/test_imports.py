"""The arrows between the packages, read from the syntax trees, and a dip_env without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "dip_env": ROOT / "dip_env",
    "dip_wrappers": ROOT / "wrappers" / "dip_wrappers",
    "dip_agents": ROOT / "agents" / "dip_agents",
    "examples": ROOT / "examples",
}
ORDER = tuple(FOLDERS)
HEAVY = {"torch", "torchvision", "transformers", "peft", "accelerate", "stable_baselines3", "vllm"}


def imported(source: str) -> Iterator[str]:
    """Yield the package of every import at any depth, typing-only and function-level ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (
                str(argument.value).partition(".")[0]
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant)
            )


def wrong_imports(package: str, source: str) -> set[str]:
    """Return what a file of ``package`` may not import."""
    forbidden = set(ORDER[ORDER.index(package) + 1 :])
    if package == "dip_env":
        forbidden |= HEAVY
    return forbidden & set(imported(source))


@pytest.mark.parametrize("package", ORDER)
def test_packages_import_only_what_stands_before_them(package):
    files = sorted(FOLDERS[package].rglob("*.py"))
    if package != "examples":
        assert files
    wrong = {str(f.relative_to(ROOT)): wrong_imports(package, f.read_text()) for f in files}
    assert {name: names for name, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("dip_env", "def f():\n    if True:\n        import dip_agents.policies.base"),
        ("dip_env", "from dip_wrappers import chat"),
        ("dip_env", "import numpy, torch.nn"),
        ("dip_env", "import importlib\nimportlib.import_module('torch')"),
        ("dip_wrappers", "class A:\n    def f(self):\n        from dip_agents import policy"),
        ("dip_agents", "import examples.play"),
    ],
)
def test_the_check_sees_a_wrong_import_at_any_depth(package, source):
    assert wrong_imports(package, source)


def test_the_check_lets_the_right_imports_pass():
    assert not wrong_imports("dip_agents", "import torch\nfrom dip_env import Episode")
    assert not wrong_imports("dip_wrappers", "import dip_env")


def loaded_after(statement: str) -> set[str]:
    """Return the heavy packages that a fresh process has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_dip_env_loads_without_torch():
    everything = (
        "import importlib, pkgutil, dip_env\n"
        "names = [m.name for m in pkgutil.walk_packages(dip_env.__path__, 'dip_env.')]\n"
        "assert len(names) > 60\n"
        "for name in names: importlib.import_module(name)"
    )
    assert loaded_after(everything) == set()


def test_the_torch_check_can_fail():
    assert loaded_after("sys.modules['torch'] = sys\nimport dip_env") == {"torch"}


LAYERS = (
    "runtime tokens objectives",
    "models",
    "engines",
    "policies adapters",
    "sft evaluation glimpse",
    "grpo experiments",
    "cli",
)
"""Packages of dip_agents from the ground up; those of one layer do not import each other."""

INSIDE: dict[str, str] = {
    "dip_env": (
        "boxes errors checks action_reader config formats matching actions ambiguity metrics "
        "resampling views "
        "prompts spaces scenes rewards result messages episode group rendering env testing "
        "vector_env"
    ),
    "dip_env.formats": "box_sets files json_rows mat5 coco_json",
    "dip_env.metrics": "assignment curves intervals pairs protocols unscored breakdown score",
    "dip_env.metrics.protocols": (
        "citypersons coco_matching coco crowd_overlaps wider jaccard uavdt crowdhuman"
    ),
    "dip_env.scenes": "base procedural readers toy transforms preview sources",
    "dip_env.scenes.preview": "contact_sheet summary",
    "dip_env.scenes.procedural": "parameters drawing source",
    "dip_env.scenes.procedural.drawing": ("render compose people placement scenery arrange scene"),
    "dip_env.scenes.procedural.drawing.people": (
        "person stance joints carried heads figures far_crowd"
    ),
    "dip_env.scenes.procedural.drawing.render": (
        "camera colours rng pixels textures outlines filler canvas light photo stage"
    ),
    "dip_env.scenes.procedural.drawing.scenery": (
        "backdrop sky solids surface ground props skyline lookalikes"
    ),
    "dip_env.scenes.readers": (
        "arguments box_checks citypersons_files images table uavdt_rows base wider_lines "
        "citypersons coco crowdhuman uavdt wider_pedestrian"
    ),
    "dip_env.scenes.transforms": (
        "cached checks sliced stored augmented filtered hash_split mixed streamed prefetched"
    ),
    "dip_wrappers": "chat thoughts controlled trace_files trace_writer controls glimpse traces",
    "dip_wrappers.glimpse": "detections looks maps detectors observations simulated wrapper",
    "dip_agents.adapters": "executor ray task openenv trl verifiers verl",
    "dip_agents.adapters.openenv": "client session server __main__",
    "dip_agents.adapters.ray": "worker workers vector_env",
    "dip_agents.adapters.trl": "budget sampling template environment rewards trainer",
    "dip_agents.adapters.verifiers": "harness env",
    "dip_agents.adapters.verl": "dataset agent_loop",
    "dip_agents.cli": (
        "arguments commands options output config_files parser policies settings audit "
        "completion doctor help run_folder resume tables scenes score compare config evaluate "
        "experiment main sft train_settings __main__ train_run train"
    ),
    "dip_agents.engines": (
        "base config replies sampling slot_cache chat_client decoder generic prefill vllm_requests "
        "cuda_graphs openai vllm hf choose"
    ),
    "dip_agents.evaluation": (
        "adversaries collusion coco looks scores consensus audit play result before_after compare "
        "files evaluator model"
    ),
    "dip_agents.experiments": "kinds measures pictures report markdown plot run",
    "dip_agents.glimpse": "baselines detectors sb3_policy",
    "dip_agents.grpo": (
        "box_stats branches records reward_schedule config rollouts batch credit gather metrics "
        "completion_rows updater trainer run"
    ),
    "dip_agents.models": (
        "activation_checkpointing block_attention precision row_blocks chunked_logprobs "
        "dense_logprobs lora norm_rotate packed_attention files rules text_layers tiny "
        "vision_tower logprob_head base feature_cache weights wrapper generic_vlm "
        "vision_encoder vlm fsdp loading"
    ),
    "dip_agents.models.tiny": "tokenizer vocabulary model",
    "dip_agents.objectives": (
        "choices token_stats advantages aggregation branches entropy importance kl regions "
        "surrogates turns losses"
    ),
    "dip_agents.policies": "base formatting oracle_looks scripted server vlm oracle",
    "dip_agents.runtime": (
        "completions diagnostics distributed dtensors durations errors interrupts memory "
        "optimizers optional random_state schedules seeds checkpoint_files checkpoints resuming "
        "logger"
    ),
    "dip_agents.sft": "config demonstrations dense optimizer loss trainer run",
    "dip_agents.tokens": (
        "buffer image_check packing batching spans chat positions banned generic_chat"
    ),
}
"""Modules and packages inside each package, in an order in which each imports only earlier ones."""


def folder_of(package: str) -> Path:
    top, *rest = package.split(".")
    return FOLDERS[top].joinpath(*rest)


def members(package: str) -> set[str]:
    """Return the modules and packages that lie directly in a package."""
    folder = folder_of(package)
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in folder.glob("*/__init__.py")}


def targets(source: str, package: str) -> set[str]:
    """Return which members of a package a file imports, for types and inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        prefix = f"{package}."
        found |= {
            name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)
        }
    return found & members(package)


def edges(package: str) -> Iterator[tuple[str, str, str]]:
    """Yield every import between members of a package: the file, its member, the other one."""
    folder = folder_of(package)
    for member in sorted(members(package)):
        own = folder / f"{member}.py"
        for path in [own] if own.is_file() else sorted((folder / member).rglob("*.py")):
            for other in targets(path.read_text(encoding="utf-8"), package) - {member}:
                yield path.relative_to(ROOT).as_posix(), member, other


def test_every_package_and_module_has_its_place_in_the_order():
    assert set(" ".join(LAYERS).split()) == members("dip_agents")
    for package, order in INSIDE.items():
        assert len(order.split()) == len(set(order.split()))
        assert set(order.split()) == members(package), package
    several = {
        ".".join((top, *path.parent.relative_to(folder).parts))
        for top, folder in FOLDERS.items()
        if top != "examples"
        for path in folder.rglob("__init__.py")
        if len(members(".".join((top, *path.parent.relative_to(folder).parts)))) > 1
    }
    assert several == {*INSIDE, "dip_agents"}


def test_packages_of_the_agents_import_from_lower_layers_only():
    layer = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
    wrong = [
        f"{path}: {member} -> {other}"
        for path, member, other in edges("dip_agents")
        if layer[other] >= layer[member]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", INSIDE)
def test_modules_import_only_what_stands_before_them(package):
    order = INSIDE[package].split()
    wrong = [
        f"{path}: {member} -> {other}"
        for path, member, other in edges(package)
        if order.index(other) >= order.index(member)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "from dip_agents.grpo.trainer import GRPOTrainer",
        "from dip_agents.grpo import GRPOTrainer",
        "import dip_agents.grpo.trainer",
        "from dip_agents import grpo",
        "def f():\n    from dip_agents.grpo import config",
        "if TYPE_CHECKING:\n    from dip_agents.grpo.config import GRPOConfig",
    ],
)
def test_the_order_sees_imports_at_any_depth(source):
    assert targets(source, "dip_agents") == {"grpo"}


WITH_TORCH = {
    *("runtime.checkpoints", "runtime.distributed", "runtime.dtensors", "runtime.optimizers"),
    "runtime.random_state",
    "runtime.resuming",
}
"""Modules of the runtime that work on tensors."""


def light_modules() -> list[str]:
    """Return the modules that must not load torch: below the models, settings, scripted play."""
    found = [f"runtime.{name}" for name in members("dip_agents.runtime")]
    found += ["objectives.choices", "models.rules", "engines.config", "grpo.config", "sft.config"]
    found += ["policies.base", "policies.oracle", "policies.scripted", "policies.server"]
    found += ["evaluation.evaluator", "evaluation.audit", "evaluation.compare", "experiments.run"]
    found += [f"cli.{name}" for name in members("dip_agents.cli") - {"__main__", "train_run"}]
    return sorted(set(found) - WITH_TORCH)


def test_what_needs_no_tensors_loads_no_torch():
    names = ", ".join(f"dip_agents.{name}" for name in light_modules())
    assert loaded_after(f"import {names}") & {"torch", "transformers"} == set()
