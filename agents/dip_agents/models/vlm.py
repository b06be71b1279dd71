"""One forward pass over token buffers for training and for sampling; independent of losses."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dip_agents.models.activation_checkpointing import enable_activation_checkpointing
from dip_agents.models.base import Features, NativeEngine
from dip_agents.models.lora import base_model
from dip_agents.models.packed_attention import attend_packed
from dip_agents.models.text_layers import speed_up_text
from dip_agents.models.vision_encoder import VisionEncoder
from dip_agents.models.wrapper import ModelWrapper
from dip_agents.tokens.buffer import EncodedImage, PlaceholderError, TokenBuffer
from dip_agents.tokens.chat import ChatTokens
from dip_agents.tokens.packing import Layout, PackedRow, pack, packed_tokens, whole_row
from dip_agents.tokens.positions import row_positions, token_positions

_log = logging.getLogger(__name__)


class VLM(ModelWrapper):
    """A Qwen-VL style model with its processor, driven by token buffers.

    Positions are computed by hand and passed explicitly. In one call each distinct image is encoded
    once, so is each prompt that several buffers begin with, nothing is padded, and logits exist at
    policy tokens only. Placeholder tokens are banned here exactly as in the sampler, so that both
    use the same distribution.

    Args:
        model: ``Qwen3VLForConditionalGeneration``, ``Qwen2_5_VLForConditionalGeneration``, or a
            PEFT model around one.
        processor: its processor.
        autocast: dtype for matrix products, or None for the weights' own.
    """

    gives_image_features = True
    shardable = True
    runs_in_vllm = True
    native_engine: NativeEngine = "hf"

    def __init__(self, model: Any, processor: Any, autocast: torch.dtype | None = None) -> None:
        """Read the sizes once and make text model and vision tower fast."""
        core = base_model(model)
        rows = core.get_input_embeddings().weight.shape[0]
        super().__init__(model, processor, autocast, ChatTokens(processor), rows)
        self.merge = int(core.config.vision_config.spatial_merge_size)
        self.vision = VisionEncoder(core, self.chat, autocast)
        speed_up_text(core.model.language_model)
        self.shares_prefix = attend_packed(core.model.language_model)
        """Whether a common prefix of several buffers goes through the model once."""
        self._warned = False

    def frozen_copy(self) -> VLM:
        """Return a copy in eval mode whose weights do not learn.

        A vision tower that does not learn here either is shared, with the features it has made.
        """
        tower, shared = self.vision.tower, not self.vision.learns
        weights = copy.deepcopy(self.model, {id(tower): tower} if shared else {})
        made = VLM(weights.requires_grad_(False).eval(), self.processor, self.autocast)
        if shared:
            made.vision = self.vision
        return made

    def checkpoint_activations(self) -> None:
        """Recompute the activations of text and vision layers in the backward pass, from now on.

        Logprobs and gradients stay; an update takes about a third longer and much less memory.
        """
        enable_activation_checkpointing(self.core.model.language_model.layers)
        enable_activation_checkpointing(self.core.model.visual.blocks)

    def features_of(self, images: Iterable[EncodedImage]) -> dict[bytes, Features]:
        """Encode each distinct image once, and not again while the vision tower is frozen.

        Args:
            images: any number, repeats allowed.

        Returns:
            For each image key its embeds (tokens, d) and its deepstack features per layer.
        """
        return self.vision.features_of(images)

    def embed(
        self,
        ids: Tensor,
        images: Sequence[EncodedImage],
        features: dict[bytes, Features],
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return input embeddings with image features in place of the placeholders.

        Args:
            ids: (B, T) long.
            images: of all rows, row by row in the order of their placeholders.
            features: from ``features_of``.

        Returns:
            Embeddings (B, T, d) and the extra arguments deepstack models take.

        Raises:
            PlaceholderError: when placeholders and features differ in number.
        """
        embeds = self.core.get_input_embeddings()(ids)
        visual = ids == self.image_token_id
        tokens = sum(image.tokens for image in images)
        if int(visual.sum()) != tokens:
            raise PlaceholderError(
                f"ids: expected {tokens} image placeholders in the batch, got {int(visual.sum())}"
            )
        if not images:
            return embeds, {}
        flat = torch.cat([features[image.key][0] for image in images]).to(embeds.dtype)
        embeds = embeds.masked_scatter(visual[..., None].expand_as(embeds), flat)
        if not self.vision.has_deepstack:
            return embeds, {}
        layers = len(features[images[0].key][1])
        deepstack = [
            torch.cat([features[image.key][1][layer] for image in images])
            for layer in range(layers)
        ]
        return embeds, {"visual_pos_masks": visual, "deepstack_visual_embeds": deepstack}

    def hidden(
        self,
        buffers: Sequence[TokenBuffer],
        features: dict[bytes, Features] | None = None,
    ) -> Tensor:
        """Return the last hidden states of whole buffers.

        Args:
            buffers: B episodes, the longest has T tokens.
            features: from ``features_of``, where the caller needs them too.

        Returns:
            (B, T, d), right padded with zeros.
        """
        states = self._states(whole_row(buffers), features).split([len(b) for b in buffers])
        return nn.utils.rnn.pad_sequence(list(states), batch_first=True)

    def _states(self, row: PackedRow, features: dict[bytes, Features] | None = None) -> Tensor:
        """Return the last hidden states (N, d) of a row."""
        ids = torch.tensor([token for piece in row.pieces for token in piece.ids])
        if not len(ids):
            return self.core.get_input_embeddings()(ids.long().to(self.device))
        images = [image for piece in row.pieces for image in piece.images]
        positions = torch.from_numpy(row_positions(row, self.image_token_id, self.merge))
        positions = positions.to(self.device)
        layout = row.layout().to(self.device)
        if features is None:
            features = self.features_of(images)
        with self.precision():
            embeds, extra = self.embed(ids.to(self.device)[None], images, features)
            if self.shares_prefix:
                extra["packed"] = layout
                positions = positions[:, None]
            else:
                embeds, positions, extra = _padded(embeds, positions, extra, layout)
            # Padding, where there is any, is on the right and attention is causal: no mask.
            out = self.core.model.language_model(
                inputs_embeds=embeds,
                position_ids=positions,
                attention_mask=None,
                use_cache=False,
                **extra,
            )
        states = out.last_hidden_state.flatten(0, 1)
        return states if self.shares_prefix else states[layout.tokens]

    def positions(
        self, ids: Sequence[int], images: Sequence[EncodedImage], start: int = 0
    ) -> tuple[np.ndarray, int]:
        """Return the rotary positions of tokens that begin at position ``start``.

        Equal to ``get_rope_index`` of both families for still images.

        Args:
            ids: token ids with placeholders.
            images: in the order of their placeholders.
            start: position of the first token.

        Returns:
            int64 (3, T) of time, row and column, and the position after the last token.

        Raises:
            PlaceholderError: when placeholders and images differ in number.
        """
        return token_positions(ids, images, self.image_token_id, self.merge, start)

    def deciding_states(self, buffers: Sequence[TokenBuffer], mask: Tensor) -> Tensor:
        """Return the states (N, d) that the policy tokens were drawn from, row by row.

        What several buffers begin with, up to the first policy token, goes through the model once.

        Args:
            buffers: B episodes.
            mask: of their policy tokens, bool (B, T), from ``targets``.
        """
        row = pack(buffers, share=self.shares_prefix)
        if not self.shares_prefix and not self._warned and row.tokens > packed_tokens(buffers):
            self._warned = True
            _log.warning(
                "attention is %r: expected 'sdpa', so each rollout repeats the prompt of its group",
                self.core.model.language_model.config._attn_implementation,
            )
        return self._states(row)[torch.from_numpy(row.deciding).to(self.device)]


def _padded(
    embeds: Tensor, positions: Tensor, extra: dict[str, Any], layout: Layout
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Turn a row (1, N, d) of roots into rectangles (R, L, d), for attention without layouts."""
    if layout.slots is None:
        slots = torch.arange(len(layout.tokens), device=embeds.device)
    else:
        slots = layout.slots
    if extra:
        visual = extra["visual_pos_masks"][0, slots] & layout.filled[:, 0]
        extra = extra | {"visual_pos_masks": visual.view(layout.roots)}
    rows = embeds[0, slots].unflatten(0, layout.roots)
    return rows, positions[:, slots].unflatten(1, layout.roots), extra
