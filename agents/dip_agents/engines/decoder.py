"""One token further for many rows: a Qwen text model written for decoding, with fused weights.

The stock modules spend most of a decoding step between their small operations. Here queries, keys
and values come from one product, gate and up from another, weights are kept in the dtype of matrix
products, and keys and values are written in place.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dip_agents.engines.slot_cache import SlotCache
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import base_layer, merged_weight


class Decoder(Protocol):
    """Feeds one token to each of many rows."""

    dtype: torch.dtype
    """Of keys, values and states."""
    ban: Tensor
    """0 for tokens that may be drawn, -inf for others, (V,)."""

    def refresh(self) -> None:
        """Copy the model's weights as they are now."""
        ...

    def new_cache(self, slots: int, capacity: int) -> SlotCache:
        """Return an empty cache for rows of up to ``capacity`` tokens."""
        ...

    def feed(
        self, cache: SlotCache, ids: Tensor, positions: Tensor, columns: Tensor, width: int
    ) -> Tensor:
        """Feed one token to each of the first n slots; returns states (n, d)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Return logits (n, V) in float32, bans not yet applied."""
        ...


def decoder_for(vlm: VLM) -> Decoder:
    """Return the fast decoder if it supports the text model, else the stock modules and a warning.

    Args:
        vlm: the model.
    """
    try:
        return TextDecoder(vlm)
    except UnsupportedTextModelError as error:
        logging.getLogger(__name__).warning("decoding with the stock modules: %s", error)
        return StockDecoder(vlm)


@dataclass(eq=False)
class _Layer:
    """The weights of one decoder layer; fused ones are copies, norms are the model's own.

    ``gain`` (heads, D) multiplies queries and keys: the weights of their norms (Qwen3), and the
    scale of attention for the queries.
    """

    source: Any
    gain: Tensor
    qkv: Tensor
    bias: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor


class UnsupportedTextModelError(TypeError):
    """The fast decoder does not support the text model; the stock modules must decode."""


class TextDecoder:
    """Feeds one token per row through the text model of Qwen2-VL, Qwen2.5-VL or Qwen3-VL.

    Args:
        vlm: the model; a LoRA is merged into the copy of the weights.

    Raises:
        UnsupportedTextModelError: for another kind of text model.
    """

    def __init__(self, vlm: VLM) -> None:
        """Allocate the copies; ``refresh`` fills them."""
        self.vlm = vlm
        self.ban = vlm.ban
        core = vlm.core
        text, config = core.model.language_model, core.config.text_config
        _check(text, config, core.lm_head)
        self.dtype = vlm.autocast or text.embed_tokens.weight.dtype
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        first = text.layers[0].self_attn
        self.head_size = first.head_dim
        self.normalised = hasattr(first, "q_norm")
        self.text = text
        self.layers = [
            _Layer(
                layer,
                torch.empty(
                    self.heads + self.kv_heads,
                    self.head_size,
                    device=layer.self_attn.q_proj.weight.device,
                ),
                *self._fused(
                    layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj
                ),
                self._empty(layer.self_attn.o_proj),
                self._fused(layer.mlp.gate_proj, layer.mlp.up_proj)[0],
                self._empty(layer.mlp.down_proj),
            )
            for layer in text.layers
        ]
        self.head = self._empty(core.lm_head)
        self._rope = torch.empty(2, 0, self.head_size)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the model's weights as they are now."""
        for layer in self.layers:
            attention, mlp = layer.source.self_attn, layer.source.mlp
            layer.gain[: self.heads] = self.head_size**-0.5
            layer.gain[self.heads :] = 1.0
            if self.normalised:
                layer.gain[: self.heads] *= attention.q_norm.weight
                layer.gain[self.heads :] *= attention.k_norm.weight
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            _fill(layer.qkv, [merged_weight(p) for p in projections])
            if layer.bias is not None:
                _fill(layer.bias, [p.bias for p in projections])
            layer.out.copy_(merged_weight(attention.o_proj))
            _fill(layer.gate_up, [merged_weight(mlp.gate_proj), merged_weight(mlp.up_proj)])
            layer.down.copy_(merged_weight(mlp.down_proj))
        self.head.copy_(merged_weight(self.vlm.core.lm_head))

    def new_cache(self, slots: int, capacity: int) -> SlotCache:
        """Return an empty cache for rows of up to ``capacity`` tokens."""
        # Positions never run ahead of columns: an image takes more tokens than positions.
        if self._rope.shape[1] <= capacity:
            self._rope = self._rotary_table(capacity + 1)
        return _new_cache(self.vlm, slots, capacity, self.dtype)

    @torch.no_grad()
    def feed(
        self, cache: SlotCache, ids: Tensor, positions: Tensor, columns: Tensor, width: int
    ) -> Tensor:
        """Feed one token to each of the first n slots.

        Args:
            cache: written in place.
            ids: (n,) long.
            positions: rotary position of each, (n,) long.
            columns: where each is written, (n,) long.
            width: columns that any of them may read.

        Returns:
            Last hidden states (n, d) in the dtype of matrix products.
        """
        with torch.autocast(ids.device.type, enabled=False):
            return self._feed(cache, ids, positions, columns, width)

    def _feed(
        self, cache: SlotCache, ids: Tensor, positions: Tensor, columns: Tensor, width: int
    ) -> Tensor:
        n, q_heads, heads = len(ids), self.heads, self.kv_heads
        x = self.text.embed_tokens.weight[ids]
        cos, sin = self._rope[:, positions][:, :, None]
        # Whole keys are read on a CPU, see ``SlotCache``.
        width = cache.store.shape[4] if ids.device.type == "cpu" else width
        unread = torch.arange(width, device=ids.device) > columns[:, None]
        mask = torch.zeros(n, 1, 1, width, dtype=self.dtype, device=ids.device)
        mask.masked_fill_(unread[:, None, None], -torch.inf)
        places = cache.places(columns)
        for number, layer in enumerate(self.layers):
            source = layer.source
            h = self._norm(x, source.input_layernorm)
            qkv = F.linear(h, layer.qkv, layer.bias).view(n, -1, self.head_size)
            qk = self._rotated(qkv[:, : q_heads + heads], layer.gain, source.self_attn, cos, sin)
            cache.write(number, places, qk[:, q_heads:], qkv[:, q_heads + heads :])
            keys, values = cache.store[number, :, :n, :, :width]
            query = qk[:, :q_heads].reshape(n, heads, -1, self.head_size)
            # The scale is in the queries, and softmax computes in float32 whatever it is given.
            weights = (query @ keys.transpose(-1, -2) + mask).softmax(-1)
            x = x + F.linear((weights @ values).view(n, -1), layer.out)
            h = self._norm(x, source.post_attention_layernorm)
            gate, up = F.linear(h, layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return self._norm(x, self.text.norm)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Return logits (n, V) in float32, bans not yet applied."""
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.to(self.dtype), self.head).float()

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon).to(self.dtype)

    def _rotated(
        self, qk: Tensor, gain: Tensor, attention: Any, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Normalise (Qwen3), scale and rotate queries and keys together, (n, heads, D)."""
        full = qk.float()
        if self.normalised:
            eps = attention.q_norm.variance_epsilon
            full = F.rms_norm(full, full.shape[-1:], None, eps)
        full = full * gain
        # The sign of the rotated half is in ``sin``.
        turned = full.roll(self.head_size // 2, -1)
        return torch.addcmul(full * cos, turned, sin).to(self.dtype)

    def _rotary_table(self, count: int) -> Tensor:
        """Return cosines and signed sines (2, count, D) of text positions: all axes agree."""
        weight = self.text.embed_tokens.weight
        positions = torch.arange(count, device=weight.device).expand(3, 1, count)
        cos, sin = self.text.rotary_emb(weight.float(), positions)
        # Qwen2.5-VL may keep an axis of three that are equal here.
        cos, sin = (part.reshape(-1, count, self.head_size)[0] for part in (cos, sin))
        half = self.head_size // 2
        return torch.stack([cos, torch.cat([-sin[:, :half], sin[:, half:]], -1)])

    def _empty(self, module: Any) -> Tensor:
        weight = base_layer(module).weight
        return torch.empty(weight.shape, dtype=self.dtype, device=weight.device)

    def _fused(self, *modules: Any) -> tuple[Tensor, Tensor | None]:
        weights = [base_layer(module).weight for module in modules]
        rows = sum(len(weight) for weight in weights)
        like = {"dtype": self.dtype, "device": weights[0].device}
        fused = torch.empty(rows, weights[0].shape[1], **like)
        biased = base_layer(modules[0]).bias is not None
        return fused, torch.empty(rows, **like) if biased else None


class StockDecoder:
    """The same with the model's own modules, for text models the fast one does not support.

    Args:
        vlm: the model.
    """

    def __init__(self, vlm: VLM) -> None:
        """Read the sizes."""
        self.vlm = vlm
        self.ban = vlm.ban
        self.dtype = vlm.autocast or vlm.core.get_input_embeddings().weight.dtype

    def refresh(self) -> None:
        """Do nothing: the modules are the model's own."""

    def new_cache(self, slots: int, capacity: int) -> SlotCache:
        """Return an empty cache for rows of up to ``capacity`` tokens."""
        return _new_cache(self.vlm, slots, capacity, self.dtype)

    @torch.no_grad()
    def feed(
        self, cache: SlotCache, ids: Tensor, positions: Tensor, columns: Tensor, width: int
    ) -> Tensor:
        """Feed one token to each of the first n slots, see ``TextDecoder.feed``."""
        cache.set_write_positions(
            torch.arange(len(ids), device=ids.device), columns[:, None], width
        )
        core = self.vlm.core
        with self.vlm.precision():
            out = core.model.language_model(
                inputs_embeds=core.get_input_embeddings()(ids[:, None]),
                position_ids=positions.expand(3, 1, -1).transpose(1, 2),
                attention_mask=(torch.arange(width, device=ids.device) <= columns[:, None])[
                    :, None, None
                ],
                past_key_values=cache,
                use_cache=True,
            )
        return out.last_hidden_state[:, 0].to(self.dtype)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Return logits (n, V) in float32, bans not yet applied."""
        with self.vlm.precision():
            return self.vlm.core.lm_head(states).float()


def _new_cache(vlm: VLM, slots: int, capacity: int, dtype: torch.dtype) -> SlotCache:
    config = vlm.core.config.text_config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    return SlotCache(layers, slots, heads, capacity, size, dtype, vlm.device)


def _fill(target: Tensor, parts: list[Tensor]) -> None:
    at = 0
    for part in parts:
        target[at : at + len(part)].copy_(part)
        at += len(part)


def _check(text: nn.Module, config: Any, head: Any) -> None:
    """Refuse models for which the fast decoder would differ from the stock modules."""
    supported = ("Qwen3VLTextModel", "Qwen2_5_VLTextModel", "Qwen2VLTextModel")
    if type(text).__name__ not in supported:
        raise UnsupportedTextModelError(
            f"expected {' or '.join(supported)}, got {type(text).__name__}"
        )
    if getattr(config, "use_sliding_window", False):
        raise UnsupportedTextModelError("expected full attention, got a sliding window")
    if config.hidden_act != "silu":
        raise UnsupportedTextModelError(f"hidden_act: expected silu, got {config.hidden_act}")
    layers: Any = text.layers
    for name, module in text.named_modules():
        if len(getattr(module, "lora_magnitude_vector", ())):
            raise UnsupportedTextModelError(f"{name}: expected plain LoRA, got DoRA")
    plain = [("lm_head", head)]
    plain += [("o_proj", layer.self_attn.o_proj) for layer in layers]
    plain += [(n, getattr(layer.mlp, n)) for layer in layers for n in ("gate_proj", "down_proj")]
    for name, module in plain:
        if base_layer(module).bias is not None:
            raise UnsupportedTextModelError(f"{name}: expected no bias, got one")
