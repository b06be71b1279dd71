"""The forward pass for any family of transformers' image-text models; plain padded batches.

Independent of the inside of the model, which embeds, encodes its images and masks attention itself.
Hence no shared prefix, and an image is encoded once per row that holds it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from dip_agents.models.activation_checkpointing import enable_activation_checkpointing
from dip_agents.models.base import Features, NativeEngine
from dip_agents.models.lora import base_model
from dip_agents.models.rules import QWEN_VL
from dip_agents.models.wrapper import ModelWrapper
from dip_agents.tokens.buffer import EncodedImage, TokenBuffer
from dip_agents.tokens.generic_chat import GenericChat
from dip_env.errors import ConfigError
from dip_env.messages import Message


class GenericVLM(ModelWrapper):
    """A model of ``AutoModelForImageTextToText`` that gives each image a fixed number of tokens.

    Such are LLaVA, Idefics3, SmolVLM, InternVL and Gemma 3. At construction two short rows go
    through the model in the two ways that are used, whole and with a cache; a family for which
    they differ is refused.

    Args:
        model: the model, or a PEFT model around one.
        processor: its processor.
        autocast: dtype for matrix products, or None for the weights' own.

    Raises:
        ConfigError: for a model or processor that does not work in this way; says what was
            expected.
    """

    chat: GenericChat
    shares_prefix = False
    gives_image_features = False
    shardable = False
    runs_in_vllm = False
    native_engine: NativeEngine = "generic"

    def __init__(self, model: Any, processor: Any, autocast: torch.dtype | None = None) -> None:
        """Read the sizes once and check the model on two short rows."""
        core = base_model(model)
        chat = GenericChat(processor, _placeholder_of(core))
        super().__init__(model, processor, autocast, chat, core.lm_head.weight.shape[0])
        known = inspect.signature(core.model.forward).parameters
        self._type_names = [n for n in ("token_type_ids", "mm_token_type_ids") if n in known]
        self._check_cache()

    def frozen_copy(self) -> GenericVLM:
        """Return a copy in eval mode whose weights do not learn."""
        weights = copy.deepcopy(self.model).requires_grad_(False).eval()
        return GenericVLM(weights, self.processor, self.autocast)

    def checkpoint_activations(self) -> None:
        """Recompute the activations of all layers in the backward pass, from now on.

        Logprobs and gradients stay; an update takes about a third longer and much less memory.

        Raises:
            ConfigError: for a family that does not mark its layers as transformers' own do.
        """
        parts = list(self.core.model.modules())
        layers = [part for part in parts if isinstance(part, GradientCheckpointingLayer)]
        if not layers:
            raise ConfigError(
                "gradient_checkpointing: expected a model with layers of the kind "
                f"GradientCheckpointingLayer, got {self.core.config.model_type} without"
            )
        enable_activation_checkpointing(layers)

    def features_of(self, images: Iterable[EncodedImage]) -> dict[bytes, Features]:
        """Return nothing: the model encodes images itself, in its forward pass."""
        return {}

    def hidden(
        self, buffers: Sequence[TokenBuffer], features: dict[bytes, Features] | None = None
    ) -> Tensor:
        """Return the last hidden states (B, T, d) of whole buffers, right padded.

        Args:
            buffers: B episodes, the longest has T tokens.
            features: not used.
        """
        ids, mask = self._padded([buffer.ids for buffer in buffers], left=False)
        images = [image for buffer in buffers for image in buffer.images]
        states: Tensor = self._forward(ids, mask, images, use_cache=False).last_hidden_state
        return states

    def deciding_states(self, buffers: Sequence[TokenBuffer], mask: Tensor) -> Tensor:
        """Return the states (N, d) that the policy tokens were drawn from, row by row."""
        return self.hidden(buffers)[:, :-1][mask[:, 1:]]

    def begin(
        self, rows: Sequence[Sequence[int]], images: Sequence[EncodedImage]
    ) -> tuple[Tensor, Tensor, Any]:
        """Read whole rows; ``extend`` continues them.

        Args:
            rows: token ids of B rows.
            images: of all rows, row by row in the order of their placeholders.

        Returns:
            State (B, d) of each last token, mask of tokens (B, T) with padding on the left, cache.
        """
        ids, mask = self._padded(rows, left=True)
        out = self._forward(ids, mask, images, use_cache=True)
        if out.past_key_values is None:
            raise ConfigError(
                f"model {type(self.core).__name__}: expected a cache of keys and values"
            )
        return out.last_hidden_state[:, -1], mask, out.past_key_values

    def extend(self, ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Tensor, Any]:
        """Read one more token of each row.

        Args:
            ids: (B,) long.
            mask: of the tokens before (B, T).
            cache: from ``begin`` or ``extend``.

        Returns:
            State (B, d) of these tokens, mask (B, T + 1), cache.
        """
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        with self.precision():
            out = self.core.model(
                input_ids=ids[:, None],
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
        return out.last_hidden_state[:, -1], mask, out.past_key_values

    def _padded(self, rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Return ids (B, T) and which of them are tokens, long (B, T)."""
        pad = self.processor.tokenizer.pad_token_id
        longest = max(map(len, rows))
        # Padding is never attended to and never a target; any token but a placeholder will do.
        ids = torch.full((len(rows), longest), self.chat.eos_token_id if pad is None else pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, tokens in enumerate(rows):
            columns = slice(longest - len(tokens), None) if left else slice(len(tokens))
            ids[row, columns] = torch.tensor(tokens)
            mask[row, columns] = 1
        return ids.to(self.device), mask.to(self.device)

    def _forward(
        self, ids: Tensor, mask: Tensor, images: Sequence[EncodedImage], use_cache: bool
    ) -> Any:
        inputs: dict[str, Any] = dict.fromkeys(
            self._type_names, ((ids == self.image_token_id) & (mask == 1)).long()
        )
        if images:
            pixels = self.chat.patches(images)
            dtype = next(p.dtype for p in self.core.parameters() if p.is_floating_point())
            pixels = pixels.to(self.device, dtype)
            inputs["pixel_values"] = pixels if self.chat.pixel_axes == 4 else pixels[None]
        with self.precision():
            return self.core.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=use_cache,
                **inputs,
            )

    @torch.no_grad()
    def _check_cache(self) -> None:
        """Check that two ragged rows have equal states when read whole and with a cache."""
        kind, was_training = type(self.core).__name__, self.core.training
        self.model.eval()
        picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        rows, images = [], []
        for text, pictures in (("1", (picture,)), ("1 2 3 4 5", (picture, picture[::-1]))):
            ids, encoded = self.chat.opening([Message("user", text, pictures)])
            rows.append([*ids, *self.chat.policy_ids("1 2")[:2]])
            images += encoded
        try:
            padded, mask = self._padded(rows, left=False)
            whole = self._forward(padded, mask, images, use_cache=False).last_hidden_state
            ends = torch.tensor([len(row) - 1 for row in rows], device=self.device)
            expected = whole[torch.arange(len(rows), device=self.device), ends]
            _, mask, cache = self.begin([row[:-1] for row in rows], images)
            last = torch.tensor([row[-1] for row in rows], device=self.device)
            got, _, _ = self.extend(last, mask, cache)
        except (ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            raise ConfigError(
                f"model {kind}: expected input_ids, attention_mask, position_ids, pixel_values and "
                f"a cache of keys and values to be enough, got {type(error).__name__}: {error}"
            ) from error
        finally:
            self.model.train(was_training)
        exact = self.autocast is None and whole.dtype == torch.float32
        gap = float((got - expected).abs().max() / expected.abs().max())
        if not gap < (1e-3 if exact else 0.1):
            raise ConfigError(
                f"model {kind}: expected equal states of rows read whole and with a cache, got a "
                f"difference of {gap:.2g}; sampler and trainer would use different policies"
            )


def check_kind(core: Any) -> None:
    """Check that a model is of the Qwen-VL families, or of the kind that ``GenericVLM`` drives.

    Args:
        core: a transformers model; its weights are not looked at.

    Raises:
        ConfigError: for any other; names its model type.
    """
    if core.config.model_type not in QWEN_VL:
        _placeholder_of(core)


def _placeholder_of(core: Any) -> int:
    """Return the image placeholder of a model, after a check that the model is of the kind used."""
    config, kind = core.config, f"{core.config.model_type} ({type(core).__name__})"
    for name in ("model", "lm_head"):
        if not hasattr(core, name):
            raise ConfigError(
                f"model {kind}: expected its parts in .model and .lm_head, got no {name}"
            )
    if hasattr(core.model, "get_rope_index"):
        raise ConfigError(
            f"model {kind}: expected one of {', '.join(QWEN_VL)} or a family with one position per "
            "token, got one with several, which needs a forward pass of its own"
        )
    text = config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(text, name, None) not in (None, 1.0):
            raise ConfigError(f"model {kind}: expected logits straight from lm_head, got {name}")
    placeholder = getattr(config, "image_token_id", None)
    if placeholder is None:
        raise ConfigError(f"model {kind}: expected image_token_id in its config")
    return int(placeholder)
