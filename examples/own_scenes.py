"""Bring your own images: a source of scenes over a folder of images and one CSV file.

    python examples/own_scenes.py                     # makes a small folder and checks it
    python examples/own_scenes.py --folder my_folder  # images/*.jpg and boxes.csv of your own

``boxes.csv`` has a row per person, ``image,x1,y1,x2,y2,ignore``, in pixels of the image; ignore is
1 for ignore regions, such as a far crowd. Needs the core install only.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw

from dip_env import Answer, Grammar, Scene
from dip_env.testing import check_dip_env


class FolderScenes:
    """Scenes from ``folder/images`` and ``folder/boxes.csv``.

    A source is anything with ``__len__`` and ``__getitem__``; nothing is inherited.

    Args:
        folder: holds both.
    """

    def __init__(self, folder: Path) -> None:
        """Read the boxes; images are read on use."""
        self.paths = sorted((folder / "images").iterdir())
        self.rows: dict[str, list[dict[str, str]]] = defaultdict(list)
        with open(folder / "boxes.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                self.rows[row["image"]].append(row)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Scene:
        """Return scene ``index``, the same one each time; IndexError outside the range."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene: expected 0..{len(self) - 1}, got {index}")
        path = self.paths[index]
        rows = self.rows[path.name]
        corners = [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in rows]
        boxes = np.array(corners, np.float32).reshape(-1, 4)
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            size = image.size  # reads the header only
        return Scene(
            scene_id=path.stem,
            size=size,
            boxes=boxes,
            # Not annotated here: people are taken to be fully visible.
            visible_boxes=boxes,
            visible_share=np.ones(len(rows), np.float32),
            ignore=np.array([row["ignore"] == "1" for row in rows], bool),
            labels=("person",) * len(rows),
            load_image=partial(read_rgb, path),
        )


def read_rgb(path: Path) -> Image.Image:
    with Image.open(path, formats=("JPEG", "PNG")) as image:
        return image.convert("RGB")


def make_folder(folder: Path, images: int) -> None:
    """Draw a few images of stick people, so that the example runs without data."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with open(folder / "boxes.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "x1", "y1", "x2", "y2", "ignore"])
        for number in range(images):
            name = f"street_{number}.png"
            picture = Image.new("RGB", (800, 600), (150, 160, 170))
            pen = ImageDraw.Draw(picture)
            for column in range(5):
                tall = int(rng.integers(60, 300))
                x1, y1 = 20 + column * 155, int(rng.integers(0, 600 - tall))
                x2, y2 = x1 + tall // 3, y1 + tall
                middle = (x1 + x2) // 2
                pen.ellipse((middle - tall // 12, y1, middle + tall // 12, y1 + tall // 6), "tan")
                pen.line((middle, y1 + tall // 6, middle, y1 + tall // 2), "black", tall // 12)
                pen.line((x1, y2, middle, y1 + tall // 2, x2, y2), "navy", tall // 20)
                writer.writerow([name, x1, y1, x2, y2, 0])
            pen.rectangle((300, 0, 500, 40), (120, 120, 130))
            writer.writerow([name, 300, 0, 500, 40, 1])
            picture.save(folder / "images" / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Play scenes of your own.")
    parser.add_argument("--folder", type=Path, help="your folder; generated if not given")
    parser.add_argument("--images", type=int, default=3, help="images to generate")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder
        if folder is None:
            folder = Path(scratch) / "street"
            make_folder(folder, args.images)
        source = FolderScenes(folder)

        # Runs an episode on every scene and raises if the source breaks the contract.
        check_dip_env(source, indices=range(len(source)))
        print(f"{len(source)} scenes, all of them valid")

        env = gym.make("DIPCrowd-v0", scenes=source, max_looks=1)
        env.reset(seed=0, options={"scene": 0})
        env.step("<think>the left half</think><look>[[0,0,224,320]]</look>")
        _, reward, _, _, info = env.step("<think>nobody?</think><answer>[]</answer>")
        print(f"an empty answer earns {reward:.3f}: {info['reward_terms']}")
        env.reset(options={"scene": 0})
        truth = Grammar().format([Answer(info["truth_boxes"])])
        _, reward, _, _, info = env.step(truth)
        print(f"the true boxes earn {reward:.3f}: {info['reward_terms']}")
        env.close()


if __name__ == "__main__":
    main()
