"""The cost of scoring a CrowdHuman-sized set, and its growth with the number of images.

    python examples/benchmarks/metrics_speed.py

Generates 4,370 images with 100,000 people and 400,000 detections as COCO files. Then every
protocol is timed in a fresh process: wall time from the files to the metrics, and peak memory.
CrowdHuman is also timed on a quarter and a half of the images. COCO is compared with pycocotools
called directly on a quarter of the set, since the whole takes it minutes: per image, alternately,
and with the same AP.
The exit code is 1 when a limit is missed. Needs pycocotools, which the extra dev installs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dip_env.metrics import score_files

IMAGES, PEOPLE, DETECTIONS = 4370, 100_000, 400_000
SECONDS_LIMIT = 8.0
MEGABYTES_LIMIT = 2048
GROWTH_LIMIT = 1.3
"""Time per image at full size over that at a quarter: 1 is linear."""
COCO_SECONDS_LIMIT = 10.0
COCO_LIMIT = 0.2
"""Time per image of our COCO protocol over that of pycocotools."""
MAX_DETECTIONS = [1, 10, 1000]
PEER = "pycocotools"


def generate(images: int, people: int, detections: int, seed: int = 0) -> tuple[dict, list]:
    """Generate a crowd set: people of all sizes, several jittered boxes on most, and noise."""
    rng = np.random.default_rng(seed)
    width, height = 1400, 900
    per_image = rng.multinomial(people, rng.dirichlet(np.full(images, 2.0)))
    image = np.repeat(np.arange(images), per_image)
    tall = np.exp(rng.uniform(np.log(30), np.log(600), people))
    box = np.stack(
        [
            rng.uniform(-20, width - 40, people),
            rng.uniform(-20, height - 60, people),
            tall * rng.uniform(0.3, 0.5, people),
            tall,
        ],
        axis=1,
    )
    crowd = rng.random(people) < 0.05
    seen = box.copy()
    seen[:, 3] *= rng.uniform(0.15, 1.0, people)
    truth = {
        "images": [
            {"id": i + 1, "width": width, "height": height, "file_name": f"{i}.jpg"}
            for i in range(images)
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": k + 1,
                "image_id": int(image[k]) + 1,
                "category_id": 1,
                "bbox": [round(v, 2) for v in box[k].tolist()],
                "vis_bbox": [round(v, 2) for v in seen[k].tolist()],
                "area": float(box[k, 2] * box[k, 3]),
                "iscrowd": int(crowd[k]),
            }
            for k in range(people)
        ],
    }
    found = rng.integers(people, size=int(detections * 0.7))
    jittered = box[found] * (1 + rng.normal(0, 0.08, (len(found), 4)))
    jittered[:, :2] = box[found, :2] + rng.normal(0, 0.08, (len(found), 2)) * box[found, 2:]
    noise = box[rng.integers(people, size=detections - len(found))].copy()
    noise[:, :2] = rng.uniform(0, (width - 40, height - 60), (len(noise), 2))
    where = np.concatenate([image[found], rng.integers(images, size=len(noise))])
    boxes = np.concatenate([jittered, noise])
    scores = np.concatenate([rng.beta(4, 2, len(found)), rng.beta(1.2, 5, len(noise))])
    results = [
        {
            "image_id": int(where[k]) + 1,
            "category_id": 1,
            "bbox": [round(v, 2) for v in boxes[k].tolist()],
            "score": float(scores[k]),
        }
        for k in rng.permutation(detections)
    ]
    return truth, results


def peer(truth: str, detections: str) -> float:
    """Return the AP of pycocotools, called directly."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(sys.stderr):
        annotations = COCO(truth)
        evaluation = COCOeval(annotations, annotations.loadRes(detections), "bbox")
        evaluation.params.maxDets = MAX_DETECTIONS
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def work(what: str, truth: str, detections: str) -> dict[str, Any]:
    """Score once in this process and return time and memory."""
    began = time.perf_counter()
    if what == PEER:
        values = {"AP": peer(truth, detections)}
    elif what == "no scores":
        values = score_files(truth, detections, scores=False)
    else:
        values = score_files(truth, detections, what)
    seconds = time.perf_counter() - began
    megabytes = peak_megabytes()
    numbers = {k: v for k, v in values.items() if isinstance(v, float)}
    return {"seconds": seconds, "megabytes": megabytes, "values": numbers}


def peak_megabytes() -> float:
    """Return the peak memory of this process.

    Linux's own record is read where it exists: the portable ``ru_maxrss`` includes the memory of
    the parent at the fork.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(what: str, files: tuple[Path, Path]) -> dict[str, Any]:
    """Score once in a fresh process."""
    command = [sys.executable, __file__, "--worker", what, str(files[0]), str(files[1])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--share", type=float, default=1.0, help="of the set's size")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(*arguments.worker)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return report(Path(folder), arguments.share, arguments.rounds)


def report(folder: Path, share: float, rounds: int) -> int:
    """Generate the sets, time all protocols and print the table; 1 when a limit is missed."""
    files = {}
    for part in (0.25, 0.5, 1.0):
        size = [max(4, round(n * share * part)) for n in (IMAGES, PEOPLE, DETECTIONS)]
        files[part] = (folder / f"truth_{part}.json", folder / f"found_{part}.json")
        for file, data in zip(files[part], generate(*size), strict=True):
            file.write_text(json.dumps(data))
    jobs = [("crowdhuman", 0.25), ("crowdhuman", 0.5), ("crowdhuman", 1.0), ("citypersons", 1.0)]
    jobs += [("wider", 1.0), ("uavdt", 1.0), ("no scores", 1.0)]
    jobs += [("coco", 0.25), ("coco", 1.0), (PEER, 0.25)]
    runs: dict[tuple[str, float], list[dict[str, Any]]] = {job: [] for job in jobs}
    for _ in range(rounds):
        for job in jobs:
            runs[job].append(timed(job[0], files[job[1]]))
    seconds = {job: statistics.median(r["seconds"] for r in found) for job, found in runs.items()}
    memory = {job: max(r["megabytes"] for r in found) for job, found in runs.items()}
    print("| protocol | part of the set | seconds | peak MB |\n|---|---:|---:|---:|")
    for job in jobs:
        print(f"| {job[0]} | {job[1]:g} | {seconds[job]:.2f} | {memory[job]:.0f} |")
    whole = ("crowdhuman", 1.0)
    # The pair of a round ran one after the other, so the median of their ratios is robust to noise.
    pairs = zip(runs["coco", 1.0], runs[PEER, 0.25], strict=True)
    gap = abs(runs["coco", 0.25][0]["values"]["AP"] - runs[PEER, 0.25][0]["values"]["AP"])
    checks = [
        ("crowdhuman, seconds", seconds[whole], SECONDS_LIMIT),
        ("crowdhuman, peak MB", memory[whole], MEGABYTES_LIMIT),
        ("crowdhuman, time per image over that of a quarter",
         seconds[whole] / seconds["crowdhuman", 0.25] / 4, GROWTH_LIMIT),
        ("coco, seconds", seconds["coco", 1.0], COCO_SECONDS_LIMIT),
        ("coco, time per image over that of pycocotools",
         statistics.median(a["seconds"] / b["seconds"] / 4 for a, b in pairs), COCO_LIMIT),
        ("coco, AP minus that of pycocotools", gap, 1e-12),
    ]  # fmt: skip
    print("\n| check | value | limit | |\n|---|---:|---:|---|")
    for name, value, limit in checks:
        print(f"| {name} | {value:.3g} | {limit:g} | {'pass' if value <= limit else 'MISSED'} |")
    return int(any(value > limit for _, value, limit in checks))


if __name__ == "__main__":
    sys.exit(main())
