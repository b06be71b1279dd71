"""``dip scenes``: count what a source holds and draw a contact sheet with its boxes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dip_agents.cli.arguments import HEADINGS, SceneArgs, check_at_least
from dip_agents.cli.run_folder import shown_path, try_folder
from dip_agents.cli.settings import Resolved
from dip_env.errors import ConfigError, SceneError

EXAMPLES = (
    "dip scenes --scenes crowd --out runs/crowd.png",
    "dip scenes --scenes crowdhuman --root data/CrowdHuman --split val",
    "dip scenes --scenes uavdt --root data/UAVDT --source-arg every=10",
)


@dataclass(frozen=True)
class Settings:
    """Print what a source holds as JSON and draw a contact sheet with its boxes."""

    source: SceneArgs = field(default_factory=SceneArgs)
    split: str = "train"
    """Part of the source to use: train, val or test."""
    n: int = 12
    """Scenes on the sheet; an endless source is counted over these only."""
    first: int = 0
    """Index of the first of them."""
    columns: int = 4
    """Scenes in a row."""
    out: Path = Path("runs/scenes.png")
    """The sheet."""

    HEADINGS = HEADINGS

    @classmethod
    def defaults(cls, given: object) -> Settings:
        """Return the settings to start from; no model plays."""
        return cls()

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: for one that cannot be.
        """
        check_at_least(self, n=1, first=0, columns=1)


def run(resolved: Resolved[Settings]) -> int:
    """Count what a source holds and draw some of it.

    Args:
        resolved: the settings.

    Returns:
        The exit code.

    Raises:
        ConfigError: for a first scene beyond the source.
        SceneError: for a missing image, unless all are missing: then the counts are all
            there is, and standard error says so.
    """
    from dip_agents.cli.output import make_console, say
    from dip_env.scenes.base import is_endless
    from dip_env.scenes.preview.contact_sheet import contact_sheet
    from dip_env.scenes.preview.summary import summarise
    from dip_env.scenes.readers.base import DatasetScenes

    args, errors = resolved.settings, make_console(errors=True)
    _check_format(args.out)
    _try_file(args.out)
    source = args.source.open(args.split)
    indices = range(args.first, min(args.first + args.n, len(source)))
    if not indices:
        raise ConfigError(f"first: expected under {len(source)}, got {args.first}")
    counted = indices if is_endless(source) else range(len(source))
    say(errors, f"counting {len(counted)} scenes ...")
    summary = summarise(source, counted)
    print(json.dumps(summary, indent=2))
    if isinstance(source, DatasetScenes) and summary["images_missing"] == len(source):
        print(
            f"dip scenes: {source.images}: no image file is there: counts only, no contact sheet",
            file=sys.stderr,
        )
        return 0
    say(errors, f"drawing {len(indices)} scenes ...")
    try:
        contact_sheet(source, indices, columns=args.columns).save(args.out)
    except OSError as error:
        raise SceneError(f"{args.out}: the contact sheet cannot be written: {error}") from error
    say(errors, f"contact sheet: {args.out}")
    return 0


def _try_file(out: Path) -> None:
    """Refuse a sheet that cannot be written, before anything is counted."""
    try_folder(out.parent)
    try:
        there = out.exists()
        out.open("ab").close()
        if not there:
            out.unlink()
    except OSError as error:
        raise ConfigError(
            f"out: expected a file that can be written, got {shown_path(out)}: {error.strerror}"
        ) from error


def _check_format(out: Path) -> None:
    """Refuse a name of which no image format can be told, before anything is drawn."""
    from PIL import Image

    known = Image.registered_extensions()
    if known.get(out.suffix.lower()) not in Image.SAVE:
        raise ConfigError(f"out: expected a name that ends in .png, .jpg or .webp, got {out}")
