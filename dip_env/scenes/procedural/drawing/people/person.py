"""Who a figure is: body, clothes, pose and what it carries, as drawn by chance; draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

from dip_env.scenes.procedural.drawing.render.camera import Vector
from dip_env.scenes.procedural.drawing.render.colours import Colour
from dip_env.scenes.procedural.drawing.render.dice import Dice

SKIN = (
    (247, 214, 190), (240, 196, 166), (226, 178, 142), (208, 156, 118), (184, 130, 92),
    (156, 106, 74), (124, 82, 56), (96, 64, 46), (74, 50, 38),
)  # fmt: skip
HAIR = (
    (34, 28, 26), (48, 36, 30), (74, 50, 34), (104, 72, 44), (146, 104, 60), (196, 158, 96),
    (150, 74, 40), (168, 164, 160), (214, 210, 204), (22, 22, 26), (40, 32, 28),
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
BRONZE = ((84, 92, 78), (96, 80, 58), (70, 74, 70))


@dataclass(frozen=True)
class Person:
    """Everything that fixes a figure but its place (lengths in metres, angles in radians)."""

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
    dice: Dice,
    heading: float | None = None,
    pose: str | None = None,
    carry: float = 0.5,
    umbrellas: float = 0.03,
    warm: bool = True,
) -> Person:
    """Draw a person by chance.

    Args:
        dice: source of chance.
        heading: direction of travel, 0 away from the camera, pi towards it; None is any.
        pose: walk, stand or sit; None chooses.
        carry: chance of carrying something.
        umbrellas: chance of an open umbrella.
        warm: weather for short sleeves and shorts.

    Returns:
        The person.
    """
    child = dice.chance(0.08)
    feminine = dice.chance(0.5)
    stature = dice.spread(1.25, 0.25) if child else dice.spread(1.64 if feminine else 1.76, 0.15)
    top = dice.pick_weighted(
        {"tshirt": 3.0 if warm else 0.6, "shirt": 2.0, "jacket": 2.0, "hoodie": 1.4,
         "coat": 0.5 if warm else 2.2, "suit": 0.8, "dress": 1.6 if feminine else 0.0,
         "vest": 0.4, "robe": 0.15}
    )  # fmt: skip
    sleeves = "short" if top in ("tshirt", "vest") else "long"
    if top in ("dress", "shirt"):
        sleeves = "short" if warm and dice.chance(0.6) else "long"
    bottom = dice.pick_weighted(
        {"trousers": 5.0, "shorts": 1.4 if warm else 0.1, "skirt": 1.5 if feminine else 0.0,
         "long_skirt": 0.6 if feminine else 0.05}
    )  # fmt: skip
    if top in ("suit", "robe"):
        bottom = "trousers"
    pose = pose or ("walk" if dice.chance(0.6) else "stand")
    arms = "swing" if pose == "walk" else dice.pick_weighted(
        {"down": 4.0, "phone": 1.6, "crossed": 0.8, "hip": 0.8, "pockets": 1.2, "wave": 0.3,
         "point": 0.3, "behind": 0.5}
    )  # fmt: skip
    if pose == "walk" and dice.chance(0.2):
        arms = dice.pick(("phone", "pockets", "call"))
    if pose == "sit":
        arms = dice.pick(("lap", "phone", "lap"))
    carried: list[str] = []
    if dice.chance(umbrellas):
        carried.append("umbrella")
    elif dice.chance(carry):
        kinds = {"backpack": 3.0, "shoulder_bag": 2.5, "shopping": 1.4}
        if pose != "sit":
            kinds |= {"suitcase": 0.8, "briefcase": 0.8}
        carried.append(dice.pick_weighted(kinds))
    colours = tuple(dice.jitter(dice.pick(BAGS), 14) for _ in carried)
    if heading is None:
        heading = dice.uniform(0, 2 * pi)
    top_colour = dice.jitter(dice.pick(TOPS), 20)
    if top == "suit":
        top_colour = dice.jitter(dice.pick(((38, 42, 56), (30, 30, 34), (86, 88, 96))), 8)
    return Person(
        stature=stature,
        build=dice.spread(0.95 if feminine else 1.03, 0.22),
        child=child,
        feminine=feminine,
        pose=pose,
        heading=heading,
        phase=dice.uniform(0, 2 * pi),
        stride=dice.uniform(0.28, 0.55),
        lean=dice.uniform(-0.02, 0.08),
        head_turn=dice.spread(0, 0.7),
        arms=arms,
        skin=dice.jitter(dice.pick(SKIN), 8),
        hair=dice.jitter(dice.pick(HAIR), 10),
        hair_style=dice.pick_weighted(
            {"long": 3.0, "bob": 2.0, "bun": 1.0, "tail": 1.2, "short": 1.0, "scarf": 0.4}
            if feminine
            else {"short": 5.0, "bald": 0.9, "buzz": 1.4, "bob": 0.4, "afro": 0.3}
        ),
        hat=dice.pick_weighted(
            {"none": 7.0, "cap": 1.0, "beanie": 0.3 if warm else 1.4, "brim": 0.5, "hood": 0.25}
        ),
        hat_colour=dice.jitter(dice.pick(TOPS), 20),
        top=top,
        top_colour=top_colour,
        under_colour=dice.jitter(dice.pick(TOPS), 20) if top != "suit" else (232, 232, 236),
        pattern=dice.pick_weighted({"plain": 6.0, "stripes": 1.2, "print": 1.2, "band": 0.8}),
        sleeves=sleeves,
        bottom=bottom,
        bottom_colour=top_colour if top == "suit" else dice.jitter(dice.pick(BOTTOMS), 16),
        shoes=dice.jitter(dice.pick(SHOES), 10),
        glasses=dice.chance(0.18),
        beard=not feminine and not child and dice.chance(0.25),
        carried=tuple(carried),
        carried_colours=colours,
        texture=(dice.whole(0, 4000), dice.whole(0, 4000)),
    )


Joints = dict[str, Vector]


def pose_joints(person: Person) -> Joints:
    """Return the joints of a posed body of nominal height 1.72 m.

    Args:
        person: body and pose.

    Returns:
        Joint name to (x to its right, y up, z forward) in metres; the ground is y = 0.
    """
    build = person.build
    hip_half = 0.09 * build * (1.06 if person.feminine else 1.0)
    shoulder_half = 0.172 * (0.5 + 0.5 * build) * (0.92 if person.feminine else 1.04)
    stride = person.stride
    if person.bottom == "long_skirt" or person.top in ("robe", "dress"):
        stride *= 0.6
    swing = stride * sin(person.phase)
    joints: Joints = {}
    thigh, shin = 0.43, 0.42
    for side, sign in (("l", -1.0), ("r", 1.0)):
        if person.pose == "sit":
            spread = 0.3 if not person.feminine else 0.08
            knee = (sign * (hip_half + thigh * spread * 0.5), 0.02, thigh * 0.96)
            ankle = (knee[0] + sign * 0.01, knee[1] - shin, knee[2] + person.lean)
        else:
            if person.pose == "walk":
                angle = sign * swing + 0.04
                bend = 0.12 + 0.75 * max(0.0, -sign * cos(person.phase)) * stride * 1.6
                bend += 0.3 * max(0.0, -sign * swing)
            else:
                angle, bend = 0.02 + sign * 0.03, 0.03
            side_step = sign * (0.012 if person.pose == "walk" else 0.03)
            knee = (sign * hip_half + side_step, -thigh * cos(angle), thigh * sin(angle))
            ankle = (
                knee[0] + side_step * 0.6,
                knee[1] - shin * cos(angle - bend),
                knee[2] + shin * sin(angle - bend),
            )
        joints["hip_" + side] = (sign * hip_half, 0.0, 0.0)
        joints["knee_" + side] = knee
        joints["ankle_" + side] = ankle
        toe_out = sign * 0.04
        heel_lift = max(0.0, -ankle[2]) * 0.5 if person.pose == "walk" else 0.0
        joints["heel_" + side] = (ankle[0], ankle[1] - 0.045, ankle[2] - 0.04)
        joints["toe_" + side] = (ankle[0] + toe_out, ankle[1] - 0.055 - heel_lift, ankle[2] + 0.15)
    lift = -min(joints[n + s][1] for n in ("heel_", "toe_") for s in "lr") + 0.035
    joints = {name: (x, y + lift, z) for name, (x, y, z) in joints.items()}

    def torso(x: float, y: float, z: float = 0.0) -> Vector:
        c, s = cos(person.lean), sin(person.lean)
        return (x, lift + y * c - z * s, y * s + z * c)

    joints["hip"] = torso(0, 0)
    joints["waist"] = torso(0, 0.16)
    joints["chest"] = torso(0, 0.36)
    joints["neck"] = torso(0, 0.55)
    joints["head"] = torso(0, 0.69, 0.025)
    for side, sign in (("l", -1.0), ("r", 1.0)):
        shoulder = torso(sign * shoulder_half, 0.49)
        joints["shoulder_" + side] = shoulder
        joints["elbow_" + side], joints["hand_" + side] = _arm(person, side, sign, shoulder, swing)
    return joints


def _arm(
    person: Person, side: str, sign: float, shoulder: Vector, swing: float
) -> tuple[Vector, Vector]:
    """Return elbow and hand of one arm: each from (outward, downward, forward) offsets."""
    x, y, z = shoulder
    out = sign * (0.05 + 0.05 * max(0.0, person.build - 1))
    right = side == "r"

    def place(upper: Vector, fore: Vector) -> tuple[Vector, Vector]:
        elbow = (x + upper[0], y - upper[1], z + upper[2])
        return elbow, (elbow[0] + fore[0], elbow[1] - fore[1], elbow[2] + fore[2])

    arms = person.arms
    if "suitcase" in person.carried and right:
        return place((out, 0.27, -0.08), (0.02, 0.22, -0.12))
    if "umbrella" in person.carried and right:
        return place((out, 0.27, 0.06), (-sign * 0.08, -0.16, 0.18))
    if arms == "swing":
        angle = -sign * swing * 0.9
        bend = 0.25 + 0.3 * max(0.0, angle)
        return place(
            (out, 0.28 * cos(angle), 0.28 * sin(angle)),
            (out * 0.2, 0.26 * cos(angle + bend), 0.26 * sin(angle + bend)),
        )
    if arms == "phone" and (right or person.lean > 0.04):
        return place((out, 0.26, 0.08), (-sign * 0.12, -0.08, 0.21))
    if arms == "call" and right:
        return place((out * 2.2, 0.22, 0.12), (-sign * 0.12, -0.25, -0.02))
    if arms == "crossed":
        return place((out, 0.26, 0.09), (-sign * 0.24, -0.04, 0.08))
    if arms == "hip":
        return place((out * 3.6, 0.23, -0.03), (-sign * 0.17, 0.16, 0.09))
    if arms == "pockets":
        return place((out * 1.5, 0.27, -0.04), (-sign * 0.05, 0.21, 0.1))
    if arms == "wave" and right:
        return place((out * 4.0, 0.14, 0.05), (sign * 0.06, -0.26, 0.05))
    if arms == "point" and right:
        return place((out * 1.5, 0.05, 0.27), (out * 0.3, 0.0, 0.26))
    if arms == "behind":
        return place((out * 1.4, 0.26, -0.08), (-sign * 0.17, 0.16, -0.1))
    if arms == "lap":
        return place((out, 0.25, 0.1), (-sign * 0.06, 0.1, 0.22))
    return place((out, 0.28, 0.0), (out * 0.2, 0.26, 0.05))
