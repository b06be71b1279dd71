"""Be the policy yourself: read what it reads, type an action, see where you looked.

    python examples/play_by_hand.py --scenes crowd
    python examples/play_by_hand.py --scenes toy --actions \
        "<think>someone far off?</think><look>[[190,100,250,160]]</look>" \
        "<answer>[[217,133,222,143]]</answer>"

After every turn the frame (and each new crop) is saved as PNG into ``--out``; open it in a viewer
that reloads. Needs the core install only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
from PIL import Image

import dip_env  # noqa: F401  (registers DIPCrowd-v0)


def typed() -> Iterator[str]:
    """Yield one action per line until the input ends."""
    while True:
        try:
            yield input("\nyour action> ")
        except EOFError:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description="Play the environment by hand.")
    parser.add_argument("--scenes", default="easy", help="a preset, or toy")
    parser.add_argument("--scene", type=int, default=0, help="which scene of it")
    parser.add_argument("--max-looks", type=int, default=2, help="looks you may take")
    parser.add_argument("--out", type=Path, default=Path("runs/play"), help="folder of the PNGs")
    parser.add_argument("--actions", nargs="+", help="play these instead of asking for them")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    env = gym.make(
        "DIPCrowd-v0", scenes=args.scenes, max_looks=args.max_looks, render_mode="rgb_array"
    )
    observation, info = env.reset(options={"scene": args.scene})
    print(observation["text"])
    shown = len(observation["text"])
    crops_shown = 0
    Image.fromarray(env.render()).save(args.out / "turn_0.png")
    print(f"\nframe: {args.out / 'turn_0.png'}")

    for turn, action in enumerate(args.actions or typed(), start=1):
        observation, reward, terminated, truncated, info = env.step(action)
        # The text is the whole conversation and only grows, so what is new is its tail.
        print(observation["text"][shown:])
        shown = len(observation["text"])
        frame = args.out / f"turn_{turn}.png"
        Image.fromarray(env.render()).save(frame)
        print(f"\nframe: {frame}")
        # Crops come padded to one size; crop_sizes tells the part that is picture.
        while crops_shown < len(info["crop_sizes"]) and info["crop_sizes"][crops_shown].all():
            width, height = info["crop_sizes"][crops_shown]
            crop = args.out / f"crop_{crops_shown + 1}.png"
            Image.fromarray(observation["crops"][crops_shown, :height, :width]).save(crop)
            print(f"crop: {crop}")
            crops_shown += 1
        if terminated or truncated:
            terms = ", ".join(f"{name} {value:.2f}" for name, value in info["reward_terms"].items())
            found, people = len(info["matches"]["pred"]), len(info["truth_boxes"])
            boxes = len(info["answer_boxes"])
            print(f"\nreward {reward:.3f} ({terms})")
            print(f"you found {found} of {people} people with {boxes} boxes")
            break
    else:
        print("\nno more actions; the episode is not over")
    env.close()


if __name__ == "__main__":
    main()
