"""Who acts in ``dip evaluate`` and ``dip experiment``, and on which scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console

from dip_agents.cli.arguments import PlayArgs
from dip_agents.cli.output import say, say_libraries_load
from dip_agents.policies.base import Policy
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_agents.policies.scripted import GridScanPolicy, RandomPolicy
from dip_agents.policies.server import ServerPolicy
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.scenes.base import SceneSource

PolicyFor = Callable[[EpisodeConfig], Policy]
"""From the rules of episodes to who acts in them."""


def policy_for(
    args: PlayArgs, command: str, largest: EpisodeConfig, source: SceneSource, console: Console
) -> PolicyFor:
    """Return who acts under given rules; a scripted policy loads no torch.

    Args:
        args: the options.
        command: that asks, for messages.
        largest: rules with the largest overview that will be asked for.
        source: the scenes.
        console: where to tell that a model is being loaded.

    Returns:
        A function of the rules; it raises ``ConfigError`` where an episode has no room in the
        token budget.

    Raises:
        ConfigError: for a model or an engine that cannot work.
    """
    if args.policy == "oracle":
        return lambda rules: OraclePolicy(source, rules, OracleConfig(**asdict(args.oracle)))
    if args.policy != "model":
        return {"random": RandomPolicy, "grid": GridScanPolicy}[args.policy]
    args.sampler.check_measuring(command)
    args.sampler.check_server()
    if args.model.model is None:
        server = _server_policy(args)
        return lambda rules: server
    say_libraries_load(console)
    from transformers.utils.logging import disable_progress_bar

    from dip_agents.engines.choose import open_engine
    from dip_agents.models.loading import load_model
    from dip_agents.policies.vlm import VLMPolicy

    disable_progress_bar()  # the loading of weights is no news
    say(console, f"loading {args.model.model} ...")
    vlm = load_model(args.model.model, device=args.model.device, dtype=args.model.dtype).vlm
    policy = VLMPolicy(
        open_engine(args.sampler, vlm, largest, args.model.token_budget),
        args.temperature,
        args.model.max_new_tokens,
        args.model.token_budget,
        args.batch_size,
    )
    first = source[0] if len(source) else None

    def checked(rules: EpisodeConfig) -> Policy:
        if first is not None:
            policy.check_room(Episode(first, rules).observation())
        return policy

    return checked


def _server_policy(args: PlayArgs) -> ServerPolicy:
    """Return the policy that asks a server for text, with no tokenizer here."""
    sampler = args.sampler
    if sampler.server is None or sampler.server_model is None:
        raise ConfigError(f"model: expected one with engine {sampler.engine}, got none")
    return ServerPolicy(
        sampler.server,
        sampler.server_model,
        args.temperature,
        args.model.max_new_tokens,
        key_variable=sampler.key_variable,
        concurrency=sampler.concurrency,
    )
