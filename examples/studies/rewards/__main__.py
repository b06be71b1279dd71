"""What does learning from these rewards do? Trains, measures and writes RESULTS.md.

    python -m examples.studies.rewards  # hours on two CPU cores; stop it at any time
    python -m examples.studies.rewards --report  # what there is so far
    python -m examples.studies.rewards --quick  # the main comparison, minutes
    python -m examples.studies.rewards --only core,domains  # some of its parts

Every variant starts from the same model and learns from the same scenes with the same number of
updates; all are measured on the same held-out scenes. Each run is a folder of ``--out`` whose name
ends in a hash of its whole setting, the starting weights included: finished runs are never
repeated, interrupted ones go on from their last checkpoint, and another setting is another
folder. ``--write`` puts the report beside this file, and all that the runs found into
``runs.tar.xz``: a study on another machine knows these runs, too. The plots need matplotlib:
pip install "dip-env[play]".
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import tyro
from transformers.utils.logging import disable_progress_bar

from dip_agents import load_model
from dip_agents.models import fingerprint
from dip_agents.runtime import require_extra
from dip_env import DipError
from dip_env.errors import ConfigError
from examples.studies.rewards.archive import pack, unpack
from examples.studies.rewards.config import Study, defaults
from examples.studies.rewards.plan import Start, plan
from examples.studies.rewards.report.provenance import command_of
from examples.studies.rewards.report.results import Results
from examples.studies.rewards.report.sections import Context, grpo_leads
from examples.studies.rewards.report.summary import verdicts
from examples.studies.rewards.report.write import write_report
from examples.studies.rewards.runs import Ways, play
from examples.studies.rewards.variants import GRPO


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    study = tyro.cli(
        Study, description=__doc__.splitlines()[0], default=defaults(given), args=given,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    try:
        return run(study, command_of(given))
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return 130
    except DipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(study: Study, command: str) -> int:
    """Do a study and write its report.

    Args:
        study: the choices.
        command: what was typed.

    Returns:
        0, or 1 when runs failed, or a quick study does not come out as the whole one.
    """
    require_extra("matplotlib", "play")
    start = start_of(study)
    jobs = plan(study, start, photos_of(study.photos))
    kept = Path(__file__).with_name("runs.tar.xz")
    if known := unpack(kept, study.out, jobs):
        print(f"{known} runs are known from {kept.name}", flush=True)
    left = []
    if not study.report:
        ways = Ways(
            out=study.out,
            model=study.model,
            device=study.device,
            photos=None if study.photos is None else str(study.photos),
            command=command,
            at_once=study.jobs,
            threads=study.threads,
        )
        left = play(jobs, ways, lambda line: print(line, flush=True))
    folder = Path(__file__).parent if study.write else study.out
    context = Context(study, start, Results(jobs, study.out), folder)
    path = write_report(context)
    if study.write:
        pack(jobs, study.out, kept)
    print("\n".join(verdicts(study, context.results)))
    print(f"{path}: {len(context.results.done)} of {len(jobs)} runs")
    if study.quick and not grpo_leads(context):
        others = ", ".join(variant.name for variant in study.core if variant is not GRPO)
        print(f"{GRPO.name} is not ahead of all of {others}", file=sys.stderr)
        return 1
    return 1 if left else 0


def start_of(study: Study) -> Start:
    """Load the starting model once, to tell its weights from others.

    Raises:
        ConfigError: for random weights, which earn nothing.
    """
    disable_progress_bar()
    loaded = load_model(study.model, device="cpu")
    if not loaded.trained:
        raise ConfigError(f"model: expected a trained model, got {study.model}")
    return Start(fingerprint(loaded.vlm.model.state_dict()), loaded.rules)


def photos_of(folder: Path | None) -> str | None:
    """Return what tells photographs and their annotations from others, None for none.

    Raises:
        ConfigError: for a folder without files.
    """
    if folder is None:
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ConfigError(f"photos: expected a folder with a COCO json and images, got {folder}")
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
