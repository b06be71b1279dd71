"""A model's weights under their checkpoint names; independent of engines and training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dip_agents.models.lora import is_adapter_weight
from dip_agents.runtime.dtensors import full_tensor

if TYPE_CHECKING:
    from dip_agents.models.base import VisionLanguageModel


@torch.no_grad()
def copy_weights(source: Any, target: VisionLanguageModel) -> None:
    """Copy the weights that learn from a model of the same family and size.

    Args:
        source: the trainer's model; where it is sharded, all ranks must call this.
        target: a whole model; changed in place.
    """
    own = dict(target.model.named_parameters())
    for name, parameter in source.model.named_parameters():
        if parameter.requires_grad:
            own[name].copy_(full_tensor(parameter.detach()))


def fingerprint(state: Mapping[str, Tensor]) -> int:
    """Return a number that tells whether two processes hold the same weights, bit for bit.

    Args:
        state: whole tensors by name.

    Returns:
        A sum over their bits, which does not depend on the device or on an order.
    """
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    total = 0
    for index, name in enumerate(sorted(state), start=1):
        tensor = state[name].detach().contiguous()
        bits = tensor.reshape(-1).view(words[tensor.element_size()])
        total += index * int(bits.sum(dtype=torch.int64))
    return total


def merged_weight(module: Any) -> Tensor:
    """Return the weight of a linear layer plus its active LoRA, in float32 where there is one.

    Args:
        module: ``nn.Linear``, or PEFT's LoRA layer around one.

    Returns:
        The weight; not a copy where there is nothing to add.
    """
    weight: Tensor = base_layer(module).weight
    if not hasattr(module, "get_delta_weight") or module.disable_adapters or module.merged:
        return weight
    for name in module.active_adapters:
        if name in module.lora_A:
            weight = weight.float() + module.get_delta_weight(name).float()
    return weight


def base_layer(module: Any) -> Any:
    """Return the linear layer inside a possible LoRA layer."""
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


@torch.no_grad()
def checkpoint_weights(
    vlm: VisionLanguageModel, *, merged: bool = True
) -> Iterator[tuple[str, Tensor]]:
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
        if is_adapter_weight(name) or (tied and name == "lm_head.weight"):
            continue
        if name.endswith(".base_layer.weight"):
            layer = core.get_submodule(name.removesuffix(".base_layer.weight"))
            if merged:
                tensor = merged_weight(layer).to(tensor.dtype)
        yield name.replace(".base_layer.", "."), tensor.detach()


def write_checkpoint(
    vlm: VisionLanguageModel, folder: Path | str, *, half: bool = False, merged: bool = True
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
    # Engines choose the code of a model by this name; without it vLLM runs a slow fallback.
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
