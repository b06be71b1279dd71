"""What a model's files must be, checked before and while transformers reads them.

Nothing that comes with a model is executed, fetched by its wish, or replaced by random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dip_env.errors import ConfigError, DipError

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Implementations a config may ask for; transformers takes other names for code on the hub."""
LFS_POINTER = b"version https://git-lfs"
ADAPTER_FILE = "adapter_config.json"


def no_model(name: Path | str, reason: object) -> ConfigError:
    """Return the error that says no such model can be loaded, and why."""
    if Path(name).is_dir():
        return ConfigError(f"model {str(name)!r}: {reason}")
    return ConfigError(
        f"model: expected tiny, tiny-untrained, a folder or a hub name, got {str(name)!r}: {reason}"
    )


def check_name(name: str) -> None:
    """Refuse at once a name that cannot be on the hub, instead of asking the network for it."""
    if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise no_model(name, "no such folder")


@contextmanager
def reading(name: Path | str) -> Iterator[None]:
    """Turn what transformers raises while it reads a model's files into one error.

    Args:
        name: of the model.

    Raises:
        ConfigError: with the type and the first line of the error.
    """
    try:
        yield
    except DipError:
        raise
    except UnpicklingError as error:
        raise no_model(
            name,
            "expected weights as safetensors, got a pickle that would run code when it is read",
        ) from error
    # Files may be anything, and what transformers, tokenizers, safetensors, torch and jinja raise
    # for them has no common base below this.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise no_model(name, f"{type(error).__name__}: {lines[0][:300]}") from error


def check_folder(name: Path | str) -> None:
    """Check what can be told of a model's folder without loading it.

    Args:
        name: of the model; nothing is checked of one that is no folder here.

    Raises:
        ConfigError: for a LoRA adapter, pointers of Git LFS in place of files, and weights that are
            cut or missing; names the file.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    if (folder / ADAPTER_FILE).is_file():
        raise no_model(name, f"a LoRA adapter ({ADAPTER_FILE}); merge it into its base model first")
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with reading(name), file.open("rb") as opened:
            start = opened.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise no_model(
                name, f"{file.name} is a pointer of Git LFS; run `git lfs pull` in the repository"
            )
        if file.suffix == ".safetensors":
            _check_safetensors(name, file)
        if file.name.endswith(".index.json"):
            _check_index(name, file)


def _check_safetensors(name: Path | str, file: Path) -> None:
    """Check header and length of a file of weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise no_model(
            name,
            f"{file.name}: expected whole safetensors, got {file.stat().st_size} bytes: {error}",
        ) from error


def _check_index(name: Path | str, index: Path) -> None:
    """Check that the files of weights that an index names are there."""
    with reading(name):
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(file for file in files if not (index.parent / file).is_file())
    if missing:
        raise no_model(name, f"{index.name}: {missing[0]} is missing")


def read_config(name: Path | str) -> Any:
    """Read a model's config; no code that comes with it is run.

    Args:
        name: a folder or a hub name.

    Returns:
        transformers' config.

    Raises:
        ConfigError: where there is none, for a model type without images, and for an attention
            implementation that is no name of transformers' own.
    """
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    check_name(str(name))
    with reading(name):
        raw, _ = PreTrainedConfig.get_config_dict(str(name))
        family, asked_attention = raw.get("model_type"), list(_asked_attention(raw))
    if not isinstance(family, str):
        raise no_model(name, f"config.json: expected model_type as text, got {family!r}")
    known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if family not in known:
        raise no_model(
            name,
            f"config.json: expected the model_type of an image-text model that transformers has, "
            f"got {family!r}",
        )
    for asked in asked_attention:
        if asked not in ATTENTION:
            raise no_model(
                name,
                f"config.json: expected attention of {', '.join(ATTENTION)}, got {asked!r}",
            )
    with reading(name):
        return AutoConfig.from_pretrained(name, trust_remote_code=False)


def _asked_attention(value: Any) -> Iterator[object]:
    """Yield the attention implementations that a config asks for, at any depth."""
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        if key.removeprefix("_").removesuffix("_internal") == "attn_implementation":
            chosen = inner.values() if isinstance(inner, Mapping) else (inner,)
            yield from (one for one in chosen if one is not None)
        else:
            yield from _asked_attention(inner)


def check_size(name: Path | str, core: Any) -> None:
    """Check that a model is about as large as its files before memory is allocated for it.

    Args:
        name: of the model; nothing is checked of one without safetensors in a folder here.
        core: the model that its config describes, such as one on the device ``meta``.

    Raises:
        ConfigError: for a config that describes more than four times as many weights.
    """
    from safetensors import safe_open

    held = 0
    for file in Path(name).glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            held += sum(prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    described = sum(parameter.numel() for parameter in core.parameters())
    if held and described > 4 * held:
        raise no_model(
            name,
            f"config.json: expected a model of the {held} weights in the files, got {described}",
        )


def check_loaded(name: Path | str, model: Any, info: Mapping[str, Any]) -> None:
    """Check that every weight of a model came from its files, and every one of them was used.

    Args:
        name: of the model.
        model: of transformers.
        info: what ``from_pretrained`` returns with ``output_loading_info``.

    Raises:
        ConfigError: for weights that are missing, of another shape or of no use; names some.
    """
    problems = []
    for key, what in (
        ("missing_keys", "missing"),
        ("mismatched_keys", "of another shape"),
        ("unexpected_keys", "of another model"),
    ):
        names = sorted(str(one if isinstance(one, str) else one[0]) for one in info.get(key, ()))
        if names:
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            problems.append(f"{len(names)} {what} ({some})")
    problems += [str(message) for message in info.get("error_msgs", ())]
    if problems:
        raise no_model(
            name, f"expected the weights of {type(model).__name__}, got {'; '.join(problems)}"
        )
