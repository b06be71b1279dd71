"""One forward pass over token buffers for training and for sampling; knows no reward, no loss."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dip_agents.models.activation_checkpointing import enable_activation_checkpointing
from dip_agents.models.chunked_logprobs import DENSE_LIMIT, linear_weight, tiled_logprobs
from dip_agents.models.fast_vision import speed_up_vision
from dip_agents.models.feature_cache import FeatureCache, Features
from dip_agents.models.packed_attention import attend_packed
from dip_agents.models.vision_plan import order_of
from dip_agents.tokens.buffer import EncodedImage, PlaceholderError, TokenBuffer
from dip_agents.tokens.chat import ChatTokens
from dip_agents.tokens.packing import Layout, PackedRow, pack, packed_tokens, whole_row
from dip_agents.tokens.positions import row_positions, token_positions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What the vision tower made of some images.

    Args:
        embeds: per image, (tokens, d).
        deepstack: per layer and image, (tokens, d); no layers for models without deepstack.
    """

    embeds: list[Tensor]
    deepstack: list[list[Tensor]]


@dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """Logprobs of the tokens that were there; column t speaks of token t of its row.

    Args:
        logprobs: float32 (B, T), 0 outside the mask.
        entropy: of the distribution each token was drawn from, float32 (B, T), 0 outside the mask.
        mask: True at policy tokens, bool (B, T).
    """

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


class VLM:
    """A Qwen-VL style model with its processor, driven by token buffers.

    Positions are computed by hand and passed explicitly. In one call each distinct image is encoded
    once, so is each prompt that several buffers begin with, nothing is padded, and logits exist at
    policy tokens only. Placeholder tokens are banned here exactly as in
    the sampler, so that both speak of the same distribution.

    Args:
        model: ``Qwen3VLForConditionalGeneration``, ``Qwen2_5_VLForConditionalGeneration``, or a
            PEFT model around one.
        processor: its processor.
        autocast: dtype for matrix products, or None for the weights' own.
    """

    def __init__(self, model: Any, processor: Any, autocast: torch.dtype | None = None) -> None:
        """Read the sizes once and make the vision tower fast."""
        self.model = model
        self.processor = processor
        self.autocast = autocast
        self.chat = ChatTokens(processor)
        base = self.core
        self.merge = int(base.config.vision_config.spatial_merge_size)
        self.has_deepstack = hasattr(base.model.visual, "deepstack_merger_list")
        self._fast_vision = speed_up_vision(base.model.visual)
        self.shares_prefix = attend_packed(base.model.language_model)
        """Whether a common prefix of several buffers goes through the model once."""
        self._told = False
        self.keeps_features = True
        """Whether features of a frozen vision tower are kept; a split model must not, since its
        ranks would no longer run the tower equally often."""
        self._kept = FeatureCache()
        vocabulary = base.get_input_embeddings().weight.shape[0]
        ban = torch.zeros(vocabulary)
        ban[self.chat.banned_ids] = -torch.inf
        ban[len(processor.tokenizer) :] = -torch.inf
        self._ban = ban

    @property
    def core(self) -> Any:
        """The transformers model inside a possible PEFT wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.core.get_input_embeddings().weight.device

    @property
    def ban(self) -> Tensor:
        """0 for tokens that may be sampled, -inf for the others, float32 (V,), on the device."""
        return self._ban.to(self.device)

    @property
    def image_token_id(self) -> int:
        """The placeholder id that image features replace."""
        return self.chat.image_token_id

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that learn."""
        return (p for p in self.model.parameters() if p.requires_grad)

    def checkpoint_activations(self) -> None:
        """Compute the insides of text and vision layers again for the backward pass, from now on.

        Logprobs and gradients stay; an update takes about a third longer and much less memory.
        """
        enable_activation_checkpointing(self.core.model.language_model.layers)
        enable_activation_checkpointing(self.core.model.visual.blocks)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights a checkpoint must hold: all, or those of the LoRA that learns."""
        state = self.model.state_dict()
        if not hasattr(self.model, "get_base_model"):
            return state
        return {name: tensor for name, tensor in state.items() if "lora_" in name}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned.

        Args:
            state: the same names and shapes.

        Raises:
            RuntimeError: for a name that is not there or another shape.
        """
        whole = not hasattr(self.model, "get_base_model")
        found = self.model.load_state_dict(state, strict=whole)
        if found.unexpected_keys:
            raise RuntimeError(
                f"state: expected names of this model, got {found.unexpected_keys[0]!r}"
            )

    def precision(self) -> AbstractContextManager[Any]:
        """Return the autocast context every forward pass runs in."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def encode(self, images: Sequence[EncodedImage]) -> ImageFeatures:
        """Run the vision tower over images.

        Args:
            images: at least one.

        Returns:
            Features in the order of the images.
        """
        # Images of one size are neighbours, so that they attend as one batch.
        order = order_of([image.grid for image in images])
        with self.precision():
            patches = torch.from_numpy(np.concatenate([images[i].patches for i in order]))
            grids = torch.tensor([images[i].grid for i in order])
            if not self._fast_vision:  # which reads them on the CPU, without a synchronisation
                grids = grids.to(self.device)
            out = self.core.model.get_image_features(patches.to(self.device), grids)
        sizes = [images[i].tokens for i in order]
        # 5.17 returns one tensor per deepstack layer, 5.23 a tuple per image.
        layers = getattr(out, "deepstack_features", None) or []
        parts = [
            list(torch.split(layer, sizes) if isinstance(layer, Tensor) else layer)
            for layer in [out.pooler_output, *layers]
        ]
        back = sorted(range(len(order)), key=order.__getitem__)
        embeds, *deepstack = ([part[i] for i in back] for part in parts)
        return ImageFeatures(embeds, deepstack)

    def features_of(
        self, images: Iterable[EncodedImage]
    ) -> dict[bytes, tuple[Tensor, list[Tensor]]]:
        """Encode each distinct image once, and not again while a frozen vision tower stays.

        Args:
            images: any number, repeats allowed.

        Returns:
            For each image key its embeds (tokens, d) and its deepstack features per layer.
        """
        unique = {image.key: image for image in images}
        if not unique:
            return {}
        weights = list(self.core.model.visual.parameters())
        frozen = self.keeps_features and not any(weight.requires_grad for weight in weights)
        known: dict[bytes, Features] = {}
        if frozen:
            known = self._kept.known(unique, sum(weight._version for weight in weights))
        missing = [image for key, image in unique.items() if key not in known]
        if not missing:
            return known
        out = self.encode(missing)
        made = {
            image.key: (out.embeds[i], [layer[i] for layer in out.deepstack])
            for i, image in enumerate(missing)
        }
        if frozen:
            self._kept.add(made)
        return known | made

    def forget_images(self) -> None:
        """Drop what a frozen vision tower made of earlier images.

        Called when play begins, so that a step is the same after a resume: features depend, in
        their last bits, on the batch that they were made in.
        """
        self._kept.clear()

    def embed(
        self,
        ids: Tensor,
        images: Sequence[EncodedImage],
        features: dict[bytes, tuple[Tensor, list[Tensor]]],
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
                f"expected {tokens} image placeholders in the batch, got {int(visual.sum())}"
            )
        if not images:
            return embeds, {}
        flat = torch.cat([features[image.key][0] for image in images]).to(embeds.dtype)
        embeds = embeds.masked_scatter(visual[..., None].expand_as(embeds), flat)
        if not self.has_deepstack:
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
        features: dict[bytes, tuple[Tensor, list[Tensor]]] | None = None,
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

    def _states(
        self, row: PackedRow, features: dict[bytes, tuple[Tensor, list[Tensor]]] | None = None
    ) -> Tensor:
        """Return the last hidden states (N, d) of a row."""
        ids = torch.tensor([token for piece in row.pieces for token in piece.ids])
        if not len(ids):
            return self.core.get_input_embeddings()(ids.long().to(self.device))
        images = [image for piece in row.pieces for image in piece.images]
        places = row_positions(row, self.image_token_id, self.merge)
        positions = torch.from_numpy(places).to(self.device)
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

    def log_softmax(self, hidden: Tensor, temperature: float) -> Tensor:
        """Return fp32 log-probabilities (N, V) over the allowed tokens.

        Args:
            hidden: last hidden states (N, d).
            temperature: divides the logits; sampler and trainer use the same one.
        """
        with self.precision():
            logits = self.core.lm_head(hidden)
        logits = logits.float() / temperature + self._ban.to(logits.device)
        return torch.log_softmax(logits, dim=-1)

    def token_logprobs(
        self, buffers: Sequence[TokenBuffer], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Return logprob and entropy of every policy token, with gradient.

        Args:
            buffers: B episodes; the longest has T tokens.
            temperature: the one they were sampled at.

        Returns:
            Logprobs, entropies and mask, each (B, T).
        """
        ids, mask = self.targets(buffers)
        chosen, entropy = self.scores(self.deciding_states(buffers, mask), ids[mask], temperature)
        zeros = torch.zeros(mask.shape, device=self.device)
        return TokenLogprobs(
            zeros.masked_scatter(mask, chosen), zeros.masked_scatter(mask, entropy), mask
        )

    def deciding_states(self, buffers: Sequence[TokenBuffer], mask: Tensor) -> Tensor:
        """Return the states (N, d) that the policy tokens were drawn from, row by row.

        What several buffers begin with, up to the first policy token, goes through the model once.

        Args:
            buffers: B episodes.
            mask: of their policy tokens, bool (B, T), from ``targets``.
        """
        row = pack(buffers, share=self.shares_prefix)
        if not self.shares_prefix and not self._told and row.tokens > packed_tokens(buffers):
            self._told = True
            _log.warning(
                "attention is %r: expected 'sdpa', so each rollout repeats the prompt of its group",
                self.core.model.language_model.config._attn_implementation,
            )
        return self._states(row)[torch.from_numpy(row.deciding).to(self.device)]

    def scores(self, states: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return logprob and entropy (N,) of the tokens drawn from these states, in float32.

        Args:
            states: last hidden states (N, d).
            ids: tokens (N,).
            temperature: the one they were sampled at.
        """
        if len(states) * len(self._ban) > DENSE_LIMIT and (head := self.head_weight()) is not None:
            weight, bias = head
            with self.precision():
                return tiled_logprobs(
                    states,
                    weight,
                    ids,
                    bias=bias,
                    banned=self._ban.to(states.device) != 0,
                    temperature=temperature,
                )
        logp = self.log_softmax(states, temperature)
        entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)
        return logp.gather(1, ids[:, None])[:, 0], entropy

    def head_weight(self) -> tuple[Tensor, Tensor | None] | None:
        """Return weight (V, d) and bias (V,) of the output layer; None when it is not plain."""
        return linear_weight(self.core.lm_head)

    def targets(self, buffers: Sequence[TokenBuffer]) -> tuple[Tensor, Tensor]:
        """Return ids (B, T) and the mask (B, T) of policy tokens that have a state before them."""
        length = max(len(buffer) for buffer in buffers)
        ids = torch.zeros(len(buffers), length, dtype=torch.long)
        mask = torch.zeros(len(buffers), length, dtype=torch.bool)
        for row, buffer in enumerate(buffers):
            ids[row, : len(buffer)] = torch.tensor(buffer.ids)
            mask[row, : len(buffer)] = torch.tensor(buffer.loss_mask, dtype=torch.bool)
        mask[:, 0] = False
        return ids.to(self.device), mask.to(self.device)


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
