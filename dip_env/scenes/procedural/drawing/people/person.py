"""Who a figure is: body, clothes, pose and what it carries, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

from dip_env.scenes.procedural.drawing.render.colours import Colour
from dip_env.scenes.procedural.drawing.render.rng import SceneRandom

SKIN = (
    (247, 214, 190), (240, 196, 166), (226, 178, 142), (208, 156, 118), (184, 130, 92),
    (156, 106, 74), (124, 82, 56), (96, 64, 46), (74, 50, 38),
)  # fmt: skip
HAIR = (
    (34, 28, 26), (48, 36, 30), (74, 50, 34), (104, 72, 44), (146, 104, 60), (196, 158, 96),
    (150, 74, 40), (158, 152, 146), (196, 188, 178), (22, 22, 26), (40, 32, 28),
)  # fmt: skip
TOPS = (
    (232, 230, 226), (40, 42, 48), (62, 74, 98), (36, 56, 96), (150, 44, 44), (188, 64, 52),
    (70, 96, 70), (52, 84, 66), (206, 178, 66), (222, 138, 52), (128, 132, 138), (94, 98, 106),
    (92, 64, 96), (172, 196, 214), (86, 134, 172), (198, 150, 158), (196, 186, 162),
    (120, 90, 64), (60, 128, 128), (214, 92, 116), (160, 40, 76), (24, 28, 34), (110, 150, 96),
)  # fmt: skip
BOTTOMS = (
    (44, 56, 86), (58, 74, 108), (86, 106, 140), (34, 36, 42), (28, 28, 32), (92, 86, 76),
    (150, 136, 108), (190, 178, 152), (74, 78, 84), (104, 108, 112), (88, 68, 52), (62, 70, 54),
    (214, 210, 202), (120, 52, 50),
)  # fmt: skip
SHOES = ((30, 28, 28), (60, 46, 38), (226, 224, 220), (96, 70, 50), (140, 40, 40), (60, 70, 90))
BAGS = ((50, 40, 36), (120, 78, 46), (30, 32, 38), (150, 46, 48), (66, 86, 110), (190, 170, 130),
        (84, 100, 70), (222, 168, 58))  # fmt: skip
STONE = ((178, 174, 164), (150, 148, 140), (196, 190, 176))
SUITS = ((38, 42, 56), (30, 30, 34), (86, 88, 96))
BRONZE = ((84, 92, 78), (96, 80, 58), (70, 74, 70))

FEMININE_HAIR = {"long": 3.0, "bob": 2.0, "bun": 1.0, "tail": 1.2, "short": 1.0, "scarf": 0.4}
MASCULINE_HAIR = {"short": 5.0, "bald": 0.9, "buzz": 1.4, "bob": 0.4, "afro": 0.3}
WARM_HATS = {"none": 7.0, "cap": 1.0, "beanie": 0.3, "brim": 0.5, "hood": 0.25}
COLD_HATS = WARM_HATS | {"beanie": 1.4}
PATTERNS = {"plain": 6.0, "stripes": 1.2, "print": 1.2, "band": 0.8}
STANDING_ARMS = {
    "down": 4.0, "phone": 1.6, "crossed": 0.8, "hip": 0.8, "pockets": 1.2, "wave": 0.3,
    "point": 0.3, "behind": 0.5,
}  # fmt: skip
SEATED_BAGS = {"backpack": 3.0, "shoulder_bag": 2.5, "shopping": 1.4}
UPRIGHT_BAGS = SEATED_BAGS | {"suitcase": 0.8, "briefcase": 0.8}


@dataclass(frozen=True)
class Person:
    """Everything that fixes a figure but its position (lengths in metres, angles in radians)."""

    stature: float
    build: float
    child: bool
    feminine: bool
    pose: str
    heading: float
    phase: float
    stride: float
    lean: float
    head_turn: float
    arms: str
    skin: Colour
    hair: Colour
    hair_style: str
    hat: str
    hat_colour: Colour
    top: str
    top_colour: Colour
    under_colour: Colour
    pattern: str
    sleeves: str
    bottom: str
    bottom_colour: Colour
    shoes: Colour
    glasses: bool
    beard: bool
    carried: tuple[str, ...]
    carried_colours: tuple[Colour, ...]
    texture: tuple[int, int]
    faceless: bool = False
    headless: bool = False


def random_person(
    rng: SceneRandom,
    heading: float | None = None,
    pose: str | None = None,
    carry: float = 0.5,
    umbrellas: float = 0.03,
    warm: bool = True,
) -> Person:
    """Draw a person at random.

    Args:
        rng: random source; the order of the draws is part of the scene.
        heading: direction of travel, 0 away from the camera, pi towards it; None is any.
        pose: walk, stand or sit; None chooses.
        carry: probability of carrying something.
        umbrellas: probability of an open umbrella.
        warm: weather for short sleeves and shorts.

    Returns:
        The person.
    """
    child = rng.bernoulli(0.08)
    feminine = rng.bernoulli(0.5)
    stature = rng.bates(1.25, 0.25) if child else rng.bates(1.64 if feminine else 1.76, 0.15)
    top, sleeves, bottom = _random_clothes(rng, feminine, warm)
    pose, arms = _random_pose(rng, pose)
    carried = _random_carried(rng, pose, carry, umbrellas)
    carried_colours = tuple(rng.jitter(rng.choice(BAGS), 14) for _ in carried)
    if heading is None:
        heading = rng.uniform(0, 2 * pi)
    top_colour = rng.jitter(rng.choice(TOPS), 20)
    if top == "suit":
        top_colour = rng.jitter(rng.choice(SUITS), 8)
    return Person(
        stature=stature,
        build=rng.bates(0.95 if feminine else 1.03, 0.22),
        child=child,
        feminine=feminine,
        pose=pose,
        heading=heading,
        phase=rng.uniform(0, 2 * pi),
        stride=rng.uniform(0.28, 0.55),
        lean=rng.uniform(-0.02, 0.08),
        head_turn=rng.bates(0, 0.7),
        arms=arms,
        skin=rng.jitter(rng.choice(SKIN), 8),
        hair=rng.jitter(rng.choice(HAIR), 10),
        hair_style=rng.weighted_choice(FEMININE_HAIR if feminine else MASCULINE_HAIR),
        hat=rng.weighted_choice(WARM_HATS if warm else COLD_HATS),
        hat_colour=rng.jitter(rng.choice(TOPS), 20),
        top=top,
        top_colour=top_colour,
        under_colour=rng.jitter(rng.choice(TOPS), 20) if top != "suit" else (232, 232, 236),
        pattern=rng.weighted_choice(PATTERNS),
        sleeves=sleeves,
        bottom=bottom,
        bottom_colour=top_colour if top == "suit" else rng.jitter(rng.choice(BOTTOMS), 16),
        shoes=rng.jitter(rng.choice(SHOES), 10),
        glasses=rng.bernoulli(0.18),
        beard=not feminine and not child and rng.bernoulli(0.25),
        carried=carried,
        carried_colours=carried_colours,
        texture=(rng.integer(0, 4000), rng.integer(0, 4000)),
    )


def _random_clothes(rng: SceneRandom, feminine: bool, warm: bool) -> tuple[str, str, str]:
    """Return kinds of top, sleeves and bottom that go together."""
    top = rng.weighted_choice(
        {
            "tshirt": 3.0 if warm else 0.6,
            "shirt": 2.0,
            "jacket": 2.0,
            "hoodie": 1.4,
            "coat": 0.5 if warm else 2.2,
            "suit": 0.8,
            "dress": 1.6 if feminine else 0.0,
            "vest": 0.4,
            "robe": 0.15,
        }
    )
    sleeves = "short" if top in ("tshirt", "vest") else "long"
    if top in ("dress", "shirt"):
        sleeves = "short" if warm and rng.bernoulli(0.6) else "long"
    bottom = rng.weighted_choice(
        {
            "trousers": 5.0,
            "shorts": 1.4 if warm else 0.1,
            "skirt": 1.5 if feminine else 0.0,
            "long_skirt": 0.6 if feminine else 0.05,
        }
    )
    return top, sleeves, "trousers" if top in ("suit", "robe") else bottom


def _random_pose(rng: SceneRandom, pose: str | None) -> tuple[str, str]:
    """Return a pose, the given one if any, and what the arms do in it."""
    pose = pose or ("walk" if rng.bernoulli(0.6) else "stand")
    arms = "swing" if pose == "walk" else rng.weighted_choice(STANDING_ARMS)
    if pose == "walk" and rng.bernoulli(0.2):
        arms = rng.choice(("phone", "pockets", "call"))
    if pose == "sit":
        arms = rng.choice(("lap", "phone", "lap"))
    return pose, arms


def _random_carried(rng: SceneRandom, pose: str, carry: float, umbrellas: float) -> tuple[str, ...]:
    """Return the kinds of things a person carries: none or one."""
    if rng.bernoulli(umbrellas):
        return ("umbrella",)
    if not rng.bernoulli(carry):
        return ()
    return (rng.weighted_choice(SEATED_BAGS if pose == "sit" else UPRIGHT_BAGS),)
