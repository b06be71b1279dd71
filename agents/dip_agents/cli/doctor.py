"""``dip doctor``: does this installation work? A cross names its remedy; exits with 1 at one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from dip_agents.cli.settings import Resolved

EXAMPLES = ("dip doctor", "dip doctor --json > doctor.json")
LOCK = Path(__file__).parents[3] / "requirements.lock"
"""The exact set of versions that was tested last; only a checkout has it."""
MEMORY_GIB, DISK_GIB = 4.0, 2.0
"""What training the bundled model needs."""


@dataclass(frozen=True)
class Settings:
    """Check versions, hardware, the bundled model, and one episode from drawing to replay."""

    json: bool = False
    """Print one JSON object, for a bug report."""


@dataclass(frozen=True)
class Check:
    """What one check found.

    Args:
        name: of the check.
        ok: False for what will not work, None for what is only told.
        found: in a few words.
        remedy: what to do about a cross.
    """

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def run(resolved: Resolved[Settings]) -> int:
    """Run all checks.

    Args:
        resolved: the settings.

    Returns:
        0, or 1 where something does not work.
    """
    from dip_agents.cli.output import make_console, say

    console = make_console()
    found = []
    for check in checks():
        found.append(check)
        if not resolved.settings.json:
            mark = {True: "ok", False: "X ", None: "- "}[check.ok]
            say(console, f"{mark}  {check.name:<12}{check.found}")
            if check.ok is False:
                say(console, f"      {check.remedy}")
    works = all(check.ok is not False for check in found)
    if resolved.settings.json:
        print(json.dumps({"ok": works, "checks": [asdict(check) for check in found]}, indent=2))
    return 0 if works else 1


def checks() -> Iterator[Check]:
    """Yield every check, the quick ones first."""
    yield from (_packages(), _tested(), _extras(), _processor(), _memory(), _disk())
    yield from (_shared_memory(), _scene(), _episode(), _device(), _model())


def _guarded(name: str, look: Callable[[], Check], remedy: str) -> Check:
    """Return what a check finds; an exception is a cross."""
    try:
        return look()
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}".splitlines()[0], remedy)


def _packages() -> Check:
    """Compare what is installed with the ranges that this package asks for."""
    from packaging.requirements import Requirement

    wrong, seen = [], 0
    for text in requires("dip-env") or ():
        requirement = Requirement(text)
        if requirement.name == "dip-env":
            continue
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            optional = requirement.marker is not None and "extra" in str(requirement.marker)
            if not optional:
                wrong.append(f"{requirement.name} is missing")
            continue
        seen += 1
        # Two extras may ask for different ranges; the one that is installed satisfies either.
        if not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name} {there} (expected {requirement.specifier})")
    if wrong:
        remedy = 'pip install -U "dip-env[train]", or a fresh environment'
        return Check("packages", False, "; ".join(sorted(set(wrong))), remedy)
    return Check("packages", True, f"{seen} within the ranges that are asked for")


def _tested() -> Check:
    """Tell which versions differ from the tested set; another Pillow moves pixels, for one."""
    if not LOCK.is_file():
        return Check("tested set", None, "not part of an installed package; see requirements.lock")
    other = []
    lines = [line.strip() for line in LOCK.read_text(encoding="utf-8").splitlines()]
    for line in (line for line in lines if "==" in line and not line.startswith("#")):
        name, _, wanted = line.partition("==")
        try:
            there = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
        if there != wanted.partition("+")[0].split()[0]:
            other.append(f"{name} {there} (tested {wanted})")
    if other:
        return Check("tested set", None, f"other versions: {', '.join(other)}")
    return Check("tested set", True, "the versions of requirements.lock")


EXTRAS = {
    "cli": "rich", "train": "transformers", "play": "matplotlib", "sb3": "stable_baselines3",
    "vllm": "vllm", "trl": "trl", "verifiers": "verifiers", "openenv": "openenv", "ray": "ray",
    "verl": "verl",
}  # fmt: skip
"""A package that tells whether an extra is installed."""


def _extras() -> Check:
    from importlib.util import find_spec

    there = [extra for extra, package in EXTRAS.items() if find_spec(package) is not None]
    return Check("extras", None, ", ".join(there) or "none")


def _processor() -> Check:
    count = os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return Check("processor", None, f"{count} cores, OMP_NUM_THREADS {threads}")


def _memory() -> Check:
    free = _meminfo().get("MemAvailable")
    if free is None:
        return Check("memory", None, "cannot be read here")
    remedy = "close other programs, or lower --micro-batch-tokens"
    return Check("memory", free >= MEMORY_GIB, f"{free:.1f} GiB available", remedy)


def _meminfo() -> dict[str, float]:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return {}
    rows = (line.split(":") for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) / 2**20 for name, value in rows}


def _disk() -> Check:
    free = shutil.disk_usage(".").free / 2**30
    return Check("disk", free >= DISK_GIB, f"{free:.1f} GiB free here", "make room, or use --out")


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check("/dev/shm", None, "not there; data loaders use other ways")
    free = shutil.disk_usage(path).free / 2**30
    remedy = "start the container with --shm-size 1g, or use --workers 0"
    return Check("/dev/shm", free >= 0.25, f"{free:.1f} GiB free", remedy)


def _scene() -> Check:
    def look() -> Check:
        from dip_env.scenes import make_source

        scene = make_source("easy", seed=0)[0]
        people = int((~scene.ignore).sum())
        return Check("scene", people > 0, f"drawn, {people} people in {scene.size}", REINSTALL)

    return _guarded("scene", look, REINSTALL)


REINSTALL = "pip install --force-reinstall dip-env, and report it with dip doctor --json"


def _episode() -> Check:
    """Let the oracle play, record it, and replay the record."""

    def look() -> Check:
        from dip_agents.evaluation.evaluator import evaluate
        from dip_agents.policies.oracle import OraclePolicy
        from dip_env.config import EpisodeConfig
        from dip_env.scenes import make_source
        from dip_wrappers import load_traces, replay

        source, rules = make_source("easy", seed=0), EpisodeConfig()
        with tempfile.TemporaryDirectory() as folder:
            result = evaluate(OraclePolicy(source, rules), source, [0], rules, out=folder)
            reward = result.metrics["reward"].value or 0.0
            replay(load_traces(Path(folder) / "traces")[0], source)
        found = f"oracle reward {reward:.3f}, recorded and replayed"
        return Check("episode", reward > 0.9, found, REINSTALL)

    return _guarded("episode", look, REINSTALL)


def _device() -> Check:
    install = 'pip install "dip-env[train]"'

    def look() -> Check:
        try:
            import torch
        except ModuleNotFoundError:
            return Check("device", None, f"no torch: scripted policies only ({install})")
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
            return Check("device", True, f"{name}, {bf16}, torch {torch.__version__}")
        fast = torch.cpu._is_avx512_bf16_supported()
        found = f"CPU, {'bfloat16' if fast else 'float32'}, {torch.get_num_threads()} threads"
        return Check("device", True, f"{found}, torch {torch.__version__}")

    return _guarded("device", look, install)


def _model() -> Check:
    install = 'pip install "dip-env[train]"'

    def look() -> Check:
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            return Check("model", None, "not loaded without torch")
        from transformers.utils.logging import disable_progress_bar

        from dip_agents.models.loading import load_model
        from dip_agents.models.weights import fingerprint

        disable_progress_bar()
        model = load_model("tiny", device="cpu").vlm.model
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        mark = fingerprint(model.state_dict())
        return Check("model", True, f"tiny: {count:.1f} M weights, fingerprint {mark}")

    return _guarded("model", look, install)
