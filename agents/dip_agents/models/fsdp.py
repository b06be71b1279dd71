"""A policy whose weights are split over the ranks, so that it trains where one GPU is too small.

FSDP2 (``torch.distributed.fsdp.fully_shard``): every rank keeps a slice of every weight, gradient
and optimizer state; before a layer runs, its weights are gathered, and after its backward pass the
gradients are summed straight into the slices.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from dip_agents.models.base import TokenLogprobs, VisionLanguageModel
from dip_agents.models.vlm import VLM
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.dtensors import gather_full, shard_like
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.errors import ConfigError


class _Root(nn.Module):
    """The only module that is called from outside, so that FSDP gathers the other weights first.

    ``VLM`` calls parts of the model directly (vision tower, text model, the head's weight), which
    the hooks of ``fully_shard`` on the model itself would never see.
    """

    def __init__(self, vlm: VLM) -> None:
        super().__init__()
        self.model = vlm.model
        self.vlm = vlm

    def forward(
        self, buffers: Sequence[TokenBuffer], temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = self.vlm.token_logprobs(buffers, temperature)
        # A tuple: the hooks look for tensors in it, and would not inside of a dataclass.
        return found.logprobs, found.entropy, found.mask


class ShardedVLM:
    """A copy of a model, split over the ranks; the policy that a trainer updates.

    All ranks must call its methods equally often and in the same order. The original
    model stays whole: it samples, since ranks do not decode equally many tokens, and gets the
    weights by ``weights.copy_weights``.

    Args:
        vlm: the model; the same on every rank.
        distributed: at least one of them.

    Raises:
        ConfigError: for a model of another family than Qwen-VL.
    """

    def __init__(self, vlm: VisionLanguageModel, distributed: DistributedContext) -> None:
        """Copy the model and shard the copy layer by layer."""
        if not vlm.shardable:
            kind = vlm.core.config.model_type
            raise ConfigError(f"model: expected a Qwen-VL model for FSDP2, got {kind}; use ddp")
        self.vlm = VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.autocast)
        self.vlm.vision.keeps_features = False
        mesh = init_device_mesh(vlm.device.type, (distributed.world_size,))
        core = self.vlm.core.model
        root = _Root(self.vlm)
        settings: dict[str, Any] = {
            "mesh": mesh,
            "reshard_after_forward": distributed.reshard_after_forward,
        }
        for layer in (*core.language_model.layers, *core.visual.blocks):
            fully_shard(layer, **settings)
        fully_shard(root, mesh=mesh)  # what is left: embeddings, head, norms, mergers
        for module in root.modules():
            if isinstance(module, FSDPModule):
                # The losses of the ranks are parts of one loss: sum, where FSDP would average.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._root = root

    @property
    def model(self) -> Any:
        """The model in slices; only ``token_logprobs`` may run it."""
        return self.vlm.model

    @property
    def shares_prefix(self) -> bool:
        """Whether rollouts of one group share their prompt, as in the whole model."""
        return self.vlm.shares_prefix

    @property
    def has_adapter(self) -> bool:
        """Whether only a LoRA learns."""
        return self.vlm.has_adapter

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Return a context in which the model runs without its LoRA."""
        return self.vlm.without_adapter()

    def token_logprobs(
        self, buffers: Sequence[TokenBuffer], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Return what ``VLM.token_logprobs`` does, with gradient for the slices."""
        return TokenLogprobs(*self._root(buffers, temperature))

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the slices that learn, in the order of the whole model."""
        return self.vlm.trainable_parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """Return whole weights on the CPU, under the names and ties of the whole model."""
        # By identity, which all ranks see alike, so that they gather the same and equally often.
        owner = {n: id(p) for n, p in self.model.named_parameters(remove_duplicate=False)}
        whole: dict[int | str, Tensor] = {}
        found = {}
        for name, tensor in self.vlm.state_dict().items():
            key = owner.get(name, name)
            if key not in whole:
                whole[key] = gather_full(tensor)
            found[name] = whole[key]
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``state_dict`` of this or of the whole model returned.

        Args:
            state: the same names and shapes.

        Raises:
            CheckpointError: for names or shapes of another model.
        """
        own = self.vlm.state_dict()
        self.vlm.load_state_dict({name: shard_like(t, own.get(name)) for name, t in state.items()})
