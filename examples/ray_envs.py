"""Play groups in the processes of a Ray cluster, with the results of the local vector environment.

    pip install "dip-env[ray]"
    python examples/ray_envs.py --groups 4 --group-size 4 --workers 2
    python examples/ray_envs.py --address auto   # on a cluster that runs: ray start --head

The policy here says something random. Where an environment of one process takes most of a
trainer's time, more workers play more scenes at once; groups are never split, so that rewards
measured on siblings are the same.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
import ray

import dip_env  # noqa: F401
from dip_agents.adapters.ray import RayVectorEnv


def play(env: gym.vector.VectorEnv, seed: int, steps: int) -> tuple[list[Any], float]:
    """Return what an environment showed and paid, and the seconds a step took."""
    seen: list[Any] = [env.reset(seed=seed)[0]["image"]]
    env.single_action_space.seed(seed)
    began = time.perf_counter()
    for _ in range(steps):
        actions = [env.single_action_space.sample() for _ in range(env.num_envs)]
        observations, rewards, terminations, truncations, _ = env.step(actions)
        seen += [observations["image"], observations["crops"], rewards, terminations, truncations]
    return seen, (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description="Spread groups over Ray workers.")
    parser.add_argument("--scenes", default="crowd", help="where scenes come from")
    parser.add_argument("--groups", type=int, default=4, help="scenes played at once")
    parser.add_argument("--group-size", type=int, default=4, help="rollouts of each scene")
    parser.add_argument("--workers", type=int, default=2, help="processes of the cluster")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--address", help="of a cluster; by default one starts on this machine")
    args = parser.parse_args()
    if args.address:
        ray.init(args.address)
    else:
        ray.init(num_cpus=args.workers, include_dashboard=False, object_store_memory=2**28)

    rules: dict[str, Any] = {"scenes": args.scenes, "group_size": args.group_size}
    count = args.groups * args.group_size
    spread = RayVectorEnv(count, num_workers=args.workers, **rules)
    local = gym.make_vec("DIPCrowd-v0", num_envs=count, **rules)
    found, seconds = play(spread, args.seed, args.steps)
    expected, local_seconds = play(local, args.seed, args.steps)
    spread.close()
    local.close()
    ray.shutdown()

    same = all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    print(f"{args.groups} groups of {args.group_size}, {args.steps} steps, same: {same}")
    print(f"local      {local_seconds * 1000:8.1f} ms a step")
    print(f"{args.workers} workers  {seconds * 1000:8.1f} ms a step")
    if not same:
        raise SystemExit("expected the results of the local environment, got others")


if __name__ == "__main__":
    main()
