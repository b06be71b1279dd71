"""From the choices of a study to its runs, each known by its whole setting; runs nothing.

A run is a folder ``<name>-<key>``. The key is a hash of everything that its result depends on, the
starting weights included, so that a changed choice is another folder and an unchanged one is found
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dip_agents import GRPOConfig, SFTConfig
from dip_agents.cli.sft import TINY_SFT
from dip_agents.cli.train_settings import TINY_GRPO
from dip_env import EpisodeConfig, RewardConfig
from examples.studies.rewards.config import Study
from examples.studies.rewards.variants import BASE, GRPO, REWARDS, SFT_LONGER, Variant

Kind = Literal["train", "measure", "looking", "noise", "agreement"]

FIRST_SCENE = 100_000_000
"""Training scenes of the study begin here, beyond those that any model was trained on."""
SEED_STRIDE = 1_000_000
"""Scenes between the first ones of two seeds."""
FIRST_WATCHED = 1_000_000
"""Held-out scenes that are measured while GRPO learns begin here."""
FIRST_MEASURED = 2_000_000
"""Those of the tables begin here, where no setting of this study was chosen by them."""
PHOTOS = "photos"
"""Name of the measurement on photographs."""
GRPO_HABITS: Mapping[str, Any] = {
    "micro_batch_tokens": 4096,
    "completions_interval": 0,
    "checkpoint_interval": 5,
    "keep_checkpoints": 1,
}
"""How GRPO is run; nothing that is learned depends on these, so that no key does."""
SFT_HABITS: Mapping[str, Any] = {"workers": 0, "checkpoint_interval": 5}
"""The same for fine-tuning."""


@dataclass(frozen=True)
class Start:
    """Where every variant begins.

    Args:
        fingerprint: of the weights.
        rules: the model's episode rules.
    """

    fingerprint: int
    rules: EpisodeConfig


@dataclass(frozen=True, eq=False)
class Job:
    """One run.

    Args:
        kind: what is done.
        variant: whose.
        seed: of the variant's training, None for the starting model.
        scenes: what it is measured on, or learns from.
        setting: everything the result depends on, as JSON values.
        needs: the training whose model is measured; None for the starting model.
    """

    kind: Kind
    variant: str
    seed: int | None
    scenes: str
    setting: Mapping[str, Any]
    needs: Job | None = None

    @property
    def key(self) -> str:
        """A hash of the setting."""
        text = json.dumps(self.setting, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()

    @property
    def folder(self) -> str:
        """Name of the folder, without its parents."""
        words = [self.kind, self.variant]
        words += [] if self.seed is None else [f"seed{self.seed}"]
        return "-".join([*words, self.scenes, self.key])


def plan(study: Study, start: Start, photos: str | None = None) -> list[Job]:
    """Return all runs of a study, in an order that fills the tables seed by seed.

    Args:
        study: the choices.
        start: the model all variants begin from.
        photos: what tells these photographs from others, None for none.

    Returns:
        Different runs, each after the one it needs.
    """
    jobs: dict[str, Job] = {}
    for job in _wanted(study, start, photos):
        if job.needs is not None:
            jobs.setdefault(job.needs.folder, job.needs)
        jobs.setdefault(job.folder, job)
    return list(jobs.values())


def rules_of(variant: Variant, start: Start, *, trained: bool) -> EpisodeConfig:
    """Return the rules a variant is trained or measured under.

    Args:
        variant: the variant.
        start: gives the rules that it changes.
        trained: with the variant's own reward, changes of that of the starting model's rules; a
            measurement scores all variants alike, by the library's defaults.
    """
    reward = replace(start.rules.reward, **variant.reward) if trained else RewardConfig()
    return replace(start.rules, reward=reward, **variant.rules)


def _wanted(study: Study, start: Start, photos: str | None) -> Iterator[Job]:
    in_domain, *others = study.presets
    core = {"core", "domains"} & set(study.parts)
    for seed in study.seeds:
        for variant in study.core if core else ():
            trained = _train(study, start, variant, seed)
            if "core" in study.parts:
                yield _measure(study, start, variant, trained, in_domain)
            for preset in others if "domains" in study.parts else ():
                yield _measure(study, start, variant, trained, preset)
        for variant in REWARDS if "rewards" in study.parts else ():
            yield _measure(study, start, variant, _train(study, start, variant, seed), in_domain)
        for variant in (BASE, GRPO) if "looking" in study.parts else ():
            yield _looking(study, start, variant, _train(study, start, variant, seed), in_domain)
        if "looking" in study.parts:
            yield _noise(study, start, in_domain)
        for variant in (BASE, GRPO) if "agreement" in study.parts else ():
            yield _agreement(study, start, variant, _train(study, start, variant, seed), in_domain)
        for variant in (BASE, SFT_LONGER, GRPO) if photos else ():
            trained = _train(study, start, variant, seed)
            job = _measure(study, start, variant, trained, PHOTOS)
            yield replace(job, setting={**job.setting, "scenes": {"photos": photos}})


def _train(study: Study, start: Start, variant: Variant, seed: int) -> Job | None:
    if variant.learns == "nothing":
        return None
    # Each demonstration shows another scene, which is the best that fine-tuning can have.
    fresh = variant.learns == "demonstrations"
    count = study.steps * (study.episodes if fresh else study.scenes_per_step)
    warmup = min(TINY_GRPO.warmup_steps, study.steps // 5)
    config: GRPOConfig | SFTConfig
    if variant.learns == "rewards":
        config = GRPOConfig(
            steps=study.steps,
            scenes_per_step=study.scenes_per_step,
            group_size=study.group_size,
            learning_rate=study.learning_rate,
            warmup_steps=warmup,
            temperature=study.temperature,
            kl_weight=study.kl_weight,
            look_credit=TINY_GRPO.look_credit,
            region_weight=TINY_GRPO.region_weight,
            eval_interval=study.watch_interval if study.watch_n else 0,
            seed=seed,
        )
        config = replace(config, **variant.learning)
        habits = GRPO_HABITS
    else:
        config = replace(
            TINY_SFT,
            steps=study.steps,
            batch_size=study.episodes,
            optimizer="adamw",
            learning_rate=study.sft_learning_rate,
            warmup_steps=warmup,
            decay_steps=warmup,
            coordinate_sigma=study.sft_sigma,
            final_sigma=None,
            dense_weight=0.0,  # its heads are no part of a saved model: they would begin anew
            # Every demonstration has the form that is measured, as every rollout of GRPO has.
            p_no_look=0.0,
            p_given_look=0.0,
            p_blurred_overview=0.0,
            seed=seed,
            **variant.demonstrations,
        )
        habits = SFT_HABITS
    setting: dict[str, Any] = {
        "kind": "train",
        "learns": variant.learns,
        "start": start.fingerprint,
        "freeze_vision": study.freeze_vision,
        "scenes": {
            "preset": study.train_preset,
            "first": FIRST_SCENE + SEED_STRIDE * seed,
            "count": count,
        },
        "rules": asdict(rules_of(variant, start, trained=True)),
        "config": {k: v for k, v in asdict(config).items() if k not in habits},
        "limits": {"max_new_tokens": study.max_new_tokens, "token_budget": study.token_budget},
    }
    if variant.learns == "rewards":
        setting["watch"] = {
            "preset": study.presets[0],
            "first": FIRST_WATCHED,
            "count": study.watch_n,
        }
    return Job("train", variant.name, seed, study.train_preset, setting)


def _measure(study: Study, start: Start, variant: Variant, trained: Job | None, preset: str) -> Job:
    setting = {
        "kind": "measure",
        "scenes": {"preset": preset, "first": FIRST_MEASURED, "count": study.n},
        **_of_model(study, start, variant, trained),
    }
    return Job("measure", variant.name, trained.seed if trained else None, preset, setting, trained)


def _looking(study: Study, start: Start, variant: Variant, trained: Job | None, preset: str) -> Job:
    setting = {
        "kind": "looking",
        "scenes": {"preset": preset, "first": FIRST_MEASURED, "count": study.looking_n},
        **_of_model(study, start, variant, trained),
    }
    return Job("looking", variant.name, trained.seed if trained else None, preset, setting, trained)


def _agreement(
    study: Study, start: Start, variant: Variant, trained: Job | None, preset: str
) -> Job:
    setting = {
        "kind": "agreement",
        "scenes": {"preset": preset, "first": FIRST_MEASURED, "count": study.looking_n},
        "samples": study.samples,
        "temperature": study.temperature,
        **_of_model(study, start, variant, trained),
    }
    seed = trained.seed if trained else None
    return Job("agreement", variant.name, seed, preset, setting, trained)


def _noise(study: Study, start: Start, preset: str) -> Job:
    setting = {
        "kind": "noise",
        "scenes": {"preset": preset, "first": FIRST_MEASURED, "count": study.looking_n},
        "group_size": study.group_size,
        "temperature": study.temperature,
        "start": start.fingerprint,
        "rules": asdict(rules_of(GRPO, start, trained=True)),
        "limits": {"max_new_tokens": study.max_new_tokens, "token_budget": study.token_budget},
    }
    return Job("noise", BASE.name, None, preset, setting)


def _of_model(study: Study, start: Start, variant: Variant, trained: Job | None) -> dict[str, Any]:
    """Return what measurements depend on beside their scenes."""
    return {
        "start": start.fingerprint,
        "of": trained.key if trained else None,
        "rules": asdict(rules_of(variant, start, trained=False)),
        "limits": {
            "max_new_tokens": study.measured_new_tokens,
            "token_budget": study.measured_token_budget,
        },
    }
