"""A model's weights under their checkpoint names; knows no engine and no training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from dip_agents.vlm import VLM


@torch.no_grad()
def checkpoint_weights(vlm: VLM, *, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight under the name that transformers gives it in a checkpoint.

    A LoRA is added out of place: merging into the weights and back again leaves rounding errors
    there, which would add up over the steps of a run.

    Args:
        vlm: the model.
        merged: add the LoRA, where there is one; else give the weights under it.

    Yields:
        Name and tensor; a tensor may be the model's own: copy it to keep it.
    """
    core = vlm.core
    tied = bool(core.config.tie_word_embeddings)
    for name, tensor in core.state_dict().items():
        if "lora_" in name or (tied and name == "lm_head.weight"):
            continue
        if name.endswith(".base_layer.weight"):
            layer = core.get_submodule(name.removesuffix(".base_layer.weight"))
            if merged:
                total = tensor.float()
                for adapter in layer.active_adapters:
                    total = total + layer.get_delta_weight(adapter).float()
                tensor = total.to(tensor.dtype)
        yield name.replace(".base_layer.", "."), tensor.detach()


def write_checkpoint(
    vlm: VLM, folder: Path | str, *, half: bool = False, merged: bool = True
) -> Path:
    """Write weights, config and processor as transformers' Auto classes and engines read them.

    Args:
        vlm: the model.
        folder: where to; made when missing.
        half: write weights as bfloat16.
        merged: add the LoRA, where there is one.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = vlm.core
    # Engines choose the code of a model by this name; without it vLLM runs a slow stand-in.
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    state = {}
    for name, tensor in checkpoint_weights(vlm, merged=merged):
        kept = tensor.bfloat16() if half and tensor.is_floating_point() else tensor
        state[name] = kept.cpu().contiguous()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    vlm.processor.save_pretrained(folder)
    return folder
