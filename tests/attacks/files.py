"""Damage files of every reader, image format and score file, and play what reads them.

Nothing but a result or an error of the library may come of it, and neither may take long. A try is
fully told by its kind and its seed: ``play(kind, seed)`` repeats it.
"""

from __future__ import annotations

import io
import json
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from dip_env.errors import DipError
from dip_env.metrics.score import PROTOCOLS, score_files
from dip_env.scenes.readers.images import FORMATS, ImageOptions, image_size, load_rgb
from dip_env.scenes.sources import make_source
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.stored import StoredScenes

LIMIT_S = 5.0
"""Seconds of computing that a try may take."""
SIZE = (64, 48)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 10**400, 0.5, -1e-9, 1e300, float("nan"), float("inf")),
    *("", " ", "x", "../x", "a\\b", "\ud800", "person", [], [[]], [1, 2, 3, 4], [0] * 5, {}),
    {"a": {"ignore": 2}},
)
"""What takes the place of a value of JSON."""
WORDS = (
    "",
    "x",
    "-1",
    "0",
    "3.5",
    "1e9",
    "99999999999",
    "nan",
    "\u0661",
    "a b",
    "../x",
    "\r",
    "\ufeff",
)
"""What takes the place of a word of a text file."""


@dataclass(frozen=True)
class Target:
    """Something that reads files.

    Args:
        files: those that are damaged, one in each try.
        read: reads them all; raises what the library raises.
    """

    files: tuple[Path, ...]
    read: Callable[[], object]


class TooSlowError(BaseException):
    """A try took longer than it may; no handler of errors stops it."""


def attack(rng: np.random.Generator, tries: int) -> dict[str, tuple[int, list[str]]]:
    """Damage files at random and read them.

    Args:
        rng: what the tries depend on.
        tries: how many of them, shared evenly among the kinds.

    Returns:
        By kind of file: its tries, and a sentence for each that failed.
    """
    found: dict[str, tuple[int, list[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        targets = make_targets(Path(folder))
        share = -(-tries // len(targets))
        for kind, target in targets.items():
            seeds = [int(seed) for seed in rng.integers(2**32, size=share)]
            words = (one_try(target, seed) for seed in seeds)
            failures = [
                f"{kind}, seed {seed}: {word}"
                for seed, word in zip(seeds, words, strict=True)
                if word
            ]
            found[kind] = (share, failures)
    return found


def play(kind: str, seed: int) -> str | None:
    """Repeat one try; returns why it failed, None where it did not."""
    with tempfile.TemporaryDirectory() as folder:
        return one_try(make_targets(Path(folder))[kind], seed)


def one_try(target: Target, seed: int) -> str | None:
    """Damage one file of a target, read it, and mend it again.

    Args:
        target: what reads the file.
        seed: what the damage depends on.

    Returns:
        Why the try failed, None where a result or an error of the library came of it.
    """
    rng = np.random.default_rng(seed)
    file = target.files[rng.integers(len(target.files))]
    whole = file.read_bytes()
    damaged, how = damage(rng, whole)
    file.write_bytes(damaged)
    try:
        with warnings.catch_warnings(), limited(LIMIT_S):
            warnings.simplefilter("ignore")
            target.read()
    except DipError:
        return None
    except TooSlowError:
        return f"{file.name} with {how}: took over {LIMIT_S:g} s"
    except Exception as error:
        return f"{file.name} with {how}: {type(error).__name__}: {error}"
    finally:
        file.write_bytes(whole)
    return None


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``TooSlowError`` after some seconds of computing; only in the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def damage(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Damage the contents of a file.

    Args:
        rng: what the damage depends on.
        data: the contents.

    Returns:
        The damaged contents, and in words what was done.
    """
    ways: list[Callable[[np.random.Generator, bytes], bytes]] = [
        *(flip_bits, cut, repeat_part, leave_out_part, swap_parts, write_noise)
    ]
    if b"\0" not in data:
        ways += [change_word, swap_lines, repeat_line]
    if data.startswith((b"{", b"[")):
        ways += [change_json] * 6 + [repeat_key] * 2
    way = ways[rng.integers(len(ways))]
    for _ in range(rng.integers(1, 4)):
        if data:
            data = way(rng, data)
    return data, way.__name__


def _part(rng: np.random.Generator, data: bytes) -> slice:
    start = int(rng.integers(len(data)))
    return slice(start, start + int(rng.integers(1, 40)))


def flip_bits(rng: np.random.Generator, data: bytes) -> bytes:
    """Flip a bit, near the beginning half of the times: there are headers."""
    changed = bytearray(data)
    end = len(data) if rng.random() < 0.5 else min(len(data), 400)
    changed[rng.integers(end)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(rng: np.random.Generator, data: bytes) -> bytes:
    """Leave out the end."""
    return data[: rng.integers(len(data))]


def repeat_part(rng: np.random.Generator, data: bytes) -> bytes:
    """Write a part twice."""
    part = _part(rng, data)
    return data[: part.stop] + data[part] + data[part.stop :]


def leave_out_part(rng: np.random.Generator, data: bytes) -> bytes:
    """Leave out a part."""
    part = _part(rng, data)
    return data[: part.start] + data[part.stop :]


def swap_parts(rng: np.random.Generator, data: bytes) -> bytes:
    """Exchange two parts side by side."""
    one = _part(rng, data)
    other = slice(one.stop, one.stop + int(rng.integers(1, 40)))
    return data[: one.start] + data[other] + data[one] + data[other.stop :]


def write_noise(rng: np.random.Generator, data: bytes) -> bytes:
    """Write other bytes over a part."""
    part = _part(rng, data)
    length = len(data[part])
    return data[: part.start] + rng.bytes(length) + data[part.start + length :]


def change_word(rng: np.random.Generator, data: bytes) -> bytes:
    """Put something else in the place of a word between blanks or commas."""
    text = data.decode("utf-8", "replace")
    separator = "," if "," in text and rng.random() < 0.7 else " "
    words = text.split(separator)
    words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
    return separator.join(words).encode("utf-8", "replace")


def swap_lines(rng: np.random.Generator, data: bytes) -> bytes:
    """Exchange two lines."""
    lines = data.split(b"\n")
    a, b = rng.integers(len(lines), size=2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def repeat_line(rng: np.random.Generator, data: bytes) -> bytes:
    """Write a line twice."""
    lines = data.split(b"\n")
    lines.insert(int(rng.integers(len(lines))), lines[rng.integers(len(lines))])
    return b"\n".join(lines)


def change_json(rng: np.random.Generator, data: bytes) -> bytes:
    """Change, rename or leave out a value of JSON, in one line where each is a value."""
    lines = data.split(b"\n")
    number = int(rng.integers(len(lines))) if len(lines) > 1 else 0
    try:
        value = json.loads(lines[number])
    except ValueError:
        return write_noise(rng, data)
    places = list(_places(value))
    if not places:
        return data
    holder, key = places[rng.integers(len(places))]
    if rng.random() < 0.6:
        holder[key] = VALUES[rng.integers(len(VALUES))]
    else:
        held = holder.pop(key)
        if isinstance(holder, dict) and rng.random() < 0.5:
            holder[key[:-1] if rng.random() < 0.5 else key.upper()] = held
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a value of JSON: what holds it, and its key there."""
    pairs = list(value.items()) if isinstance(value, dict) else []
    pairs = list(enumerate(value)) if isinstance(value, list) else pairs
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def repeat_key(rng: np.random.Generator, data: bytes) -> bytes:
    """Give an object of JSON a key of some object with another value."""
    text = data.decode("utf-8", "replace")
    starts = [k for k, letter in enumerate(text) if letter == "{"]
    keys = [part for part in text.split('"')[1::2] if part.isidentifier()]
    if not starts or not keys:
        return data
    at = starts[rng.integers(len(starts))] + 1
    value = json.dumps(VALUES[rng.integers(len(VALUES))])
    added = f'"{keys[rng.integers(len(keys))]}": {value}, '
    return (text[:at] + added + text[at:]).encode("utf-8", "replace")


def make_targets(folder: Path) -> dict[str, Target]:
    """Write small whole files of every kind.

    Args:
        folder: where to write.

    Returns:
        What reads them, by kind.
    """
    made = {
        "crowdhuman": crowdhuman(folder / "crowdhuman"),
        "coco": coco(folder / "coco"),
        "citypersons json": citypersons_json(folder / "citypersons"),
        "citypersons mat": citypersons_mat(folder / "mat", packed=False),
        "citypersons packed mat": citypersons_mat(folder / "packed", packed=True),
        "wider 2018": wider_2018(folder / "wider_2018"),
        "wider 2019": wider_2019(folder / "wider_2019"),
        "uavdt": uavdt(folder / "uavdt"),
        "score": scores(folder / "score"),
        "stored scenes": stored(folder / "stored"),
    }
    return made | {f"image {name}": picture(folder / "images", name) for name in FORMATS}


def write(root: Path, name: str, content: str) -> Path:
    """Write a text file, and return it."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def paint(root: Path, *names: str) -> None:
    """Write images of one size."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (10, 20, 30)).save(root / name)


def open_reader(name: str, root: Path, **options: Any) -> None:
    """Open a data set and read its scenes with their images."""
    source = make_source(name, root, **options)
    for index in range(min(len(source), 3)):
        source[index].image.load()


def reader(name: str, root: Path, *files: Path, **options: Any) -> Target:
    """Return what opens a data set, invalid boxes dropped, so that more is read."""
    return Target(files, partial(open_reader, name, root, bad_boxes="drop", **options))


def crowdhuman(root: Path) -> Target:
    """Write CrowdHuman: two images, one of them without people."""
    box = {"fbox": [4, 4, 20, 40], "vbox": [4, 4, 20, 20], "hbox": [6, 4, 8, 8]}
    person = {"tag": "person", **box, "head_attr": {"ignore": 0}, "extra": {"box_id": 0, "occ": 0}}
    mask = {"tag": "mask", **box, "head_attr": {}, "extra": {"ignore": 1}}
    lines = [{"ID": "1,a", "gtboxes": [person, mask]}, {"ID": "2,b", "gtboxes": []}]
    paint(root, "Images/1,a.jpg", "Images/2,b.jpg")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return reader("crowdhuman", root, write(root, "annotation_train.odgt", text))


def coco(root: Path) -> Target:
    """Write a COCO file: two images, a person, a crowd and a dog."""
    size = {"width": SIZE[0], "height": SIZE[1]}
    images = [{"id": k, "file_name": f"{k}.png", **size} for k in (3, 4)]
    rows = [
        {"id": 1, "image_id": 3, "category_id": 1, "bbox": [4, 4, 20, 40], "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [30, 4, 20, 40], "iscrowd": 1},
        {"id": 3, "image_id": 4, "category_id": 2, "bbox": [0, 0, 9, 9], "vis_bbox": [0, 0, 5, 5]},
    ]
    names = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    paint(root, "images/3.png", "images/4.png")
    text = json.dumps({"images": images, "annotations": rows, "categories": names})
    return reader("coco", root, write(root, "annotations.json", text))


def citypersons_json(root: Path) -> Target:
    """Write the json tree of CityPersons: one image with a pedestrian and a region."""
    boxes = {"bbox": [4, 4, 20, 40], "bboxVis": [4, 4, 20, 20], "instanceId": 24000}
    objects = [{"label": label, **boxes} for label in ("pedestrian", "ignore")]
    text = json.dumps({"imgWidth": SIZE[0], "imgHeight": SIZE[1], "objects": objects})
    paint(root, "leftImg8bit/train/ulm/ulm_0_1_leftImg8bit.png")
    name = "gtBboxCityPersons/train/ulm/ulm_0_1_gtBboxCityPersons.json"
    return reader("citypersons", root, write(root, name, text))


def citypersons_mat(root: Path, *, packed: bool) -> Target:
    """Write CityPersons as MATLAB holds it: an image with a pedestrian, and one without."""
    row = np.empty((1, 2), object)
    rows = np.array([[1, 4, 4, 20, 40, 24000, 4, 4, 20, 20]], np.uint16)
    for k, bbs in enumerate((rows, rows[:0])):
        row[0, k] = {"cityname": "ulm", "im_name": f"ulm_0_{k}_leftImg8bit.png", "bbs": bbs}
    paint(root, *(f"leftImg8bit/train/ulm/ulm_0_{k}_leftImg8bit.png" for k in range(2)))
    held = io.BytesIO()
    scipy.io.savemat(held, {"anno_train_aligned": row}, do_compression=packed)
    (root / "anno_train.mat").write_bytes(held.getvalue())
    return reader("citypersons", root, root / "anno_train.mat")


def wider_2018(root: Path) -> Target:
    """Write WIDER Pedestrian of 2018: two images and an ignore region."""
    paint(root, "train/img00001.jpg", "train/img00002.jpg")
    lines = "img00001.jpg 1 4 4 20 40 2 30 4 20 20\nimg00002.jpg\n"
    return reader(
        "wider_pedestrian",
        root,
        write(root, "train_annotations.txt", lines),
        write(root, "pedestrian_ignore_part_train.txt", "img00001.jpg 30 4 20 20 \n"),
    )


def wider_2019(root: Path) -> Target:
    """Write WIDER Pedestrian of 2019: two images, one of them only in the list."""
    paint(root, "sur_train/sur00001.jpg", "ad_train/ad_01/ad00002.jpg")
    return reader(
        "wider_pedestrian",
        root,
        write(root, "Annotations/train_bbox.txt", "sur00001.jpg 4 4 20 40 30 4 20 20\n"),
        write(root, "Annotations/train_ignore.txt", "ad00002.jpg 30 4 20 20\n"),
        write(root, "Annotations/train_list.txt", "sur00001.jpg\nad00002.jpg\n"),
    )


def uavdt(root: Path) -> Target:
    """Write a sequence of UAVDT: two frames, two vehicles and a region."""
    paint(root, *(f"UAV-benchmark-M/M0101/img{k:06d}.jpg" for k in (1, 2)))
    folder = "UAV-benchmark-MOTD_v1.0/GT/M0101"
    whole = "1,1,4,4,20,40,1,1,1\n2,1,5,4,20,40,2,3,1\n1,2,30,4,20,20,1,1,3\n"
    return reader(
        "uavdt",
        root,
        write(root, f"{folder}_gt_whole.txt", whole),
        write(root, f"{folder}_gt_ignore.txt", "1,9,0,40,30,8,1,-1,-1\n"),
    )


def scores(root: Path) -> Target:
    """Write ground truth and detections of two images."""
    size = {"width": 200, "height": 200}
    rows = [
        {"id": k, "image_id": k // 2, "category_id": 1, "bbox": [10 + 90 * (k % 2), 20, 30, 80]}
        for k in range(4)
    ]
    rows[3] |= {"iscrowd": 1}
    rows[0] |= {"vis_bbox": [10, 20, 30, 40]}
    truth = {
        "images": [{"id": k, **size} for k in range(2)],
        "annotations": rows,
        "categories": [{"id": 1, "name": "person"}],
    }
    keys = ("image_id", "category_id", "bbox")
    found = [{**{key: row[key] for key in keys}, "score": 0.9 - row["id"] / 9} for row in rows]
    files = (
        write(root, "truth.json", json.dumps(truth)),
        write(root, "detections.json", json.dumps(found)),
    )
    return Target(files, partial(score_all, *files))


def score_all(truth: Path, detections: Path) -> None:
    """Score by every protocol and without scores; all numbers have to be finite and in range."""
    for protocol in PROTOCOLS:
        json.dumps(score_files(truth, detections, protocol), allow_nan=False)
    found = score_files(truth, detections, scores=False, breakdown=True)
    json.dumps(found, allow_nan=False)
    for name in ("precision", "recall", "F1", "mean_iou", "JI", "AP_tied"):
        if found[name] is not None and not 0 <= found[name] <= 1:
            raise ValueError(f"{name}: expected 0 to 1, got {found[name]}")


def stored(root: Path) -> Target:
    """Store a scene."""
    source = StoredScenes(ToyScenes(), root)
    source[0].image.load()
    return Target((root / "000000000.npz",), lambda: source[0].image.load())


def picture(root: Path, name: str) -> Target:
    """Write an image of random pixels in one format."""
    root.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 1
    path = root / f"{name}.img"
    Image.fromarray(pixels).save(path, name, exif=exif)

    def read() -> None:
        for options in (ImageOptions(), ImageOptions(exif_rotation="apply")):
            load_rgb(path, image_size(path, options), options)

    return Target((path,), read)
