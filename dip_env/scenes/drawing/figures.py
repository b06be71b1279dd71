"""Draws a posed person as a sprite: limbs, clothes, head, hair and carried things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, hypot, pi, sin

from dip_env.scenes.drawing.camera import Camera, Point, Vector
from dip_env.scenes.drawing.carried import draw_carried
from dip_env.scenes.drawing.people import Joints, Person, pose_joints
from dip_env.scenes.drawing.sketch import Colour, Sketch, Sprite, ellipse_outline

Tone = Callable[[Colour], Colour]

NOMINAL = 1.72
"""Height in metres of the body that ``pose_joints`` describes."""

_EIGHT = [(cos(pi * k / 4), sin(pi * k / 4)) for k in range(8)]


@dataclass(frozen=True)
class Stance:
    """Projects a body's own coordinates to scene pixels (affine around its middle).

    Args:
        column: scene column from (x, y, z, 1).
        row: scene row from (x, y, z, 1).
        away: metres away from the camera from (x, y, z).
        scale: pixels per metre of the nominal body.
    """

    column: tuple[float, float, float, float]
    row: tuple[float, float, float, float]
    away: Vector
    scale: float

    @classmethod
    def of(cls, camera: Camera, place: Vector, heading: float, stature: float) -> Stance:
        """Return the stance of a body of that stature and heading at a world place."""
        size = stature / NOMINAL
        middle = (place[0], place[1] + stature / 2, place[2])
        c, s = cos(heading), sin(heading)
        rows = []
        for ax, ay, az in camera.jacobian(middle):
            rows.append((size * (ax * c - az * s), size * ay, size * (ax * s + az * c)))
        u, v = camera.project(middle)
        half = NOMINAL / 2
        return cls(
            (*rows[0], u - rows[0][1] * half),
            (*rows[1], v - rows[1][1] * half),
            rows[2],
            camera.scale(middle) * size,
        )

    def at(self, p: Vector) -> Point:
        """Return the scene pixel of a body point."""
        a, b = self.column, self.row
        return (
            a[0] * p[0] + a[1] * p[1] + a[2] * p[2] + a[3],
            b[0] * p[0] + b[1] * p[1] + b[2] * p[2] + b[3],
        )

    def depth(self, p: Vector) -> float:
        """Return how far away a body point lies, relative to the body's origin."""
        d = self.away
        return d[0] * p[0] + d[1] * p[1] + d[2] * p[2]

    def ring(self, centre: Vector, rx: float, rz: float) -> list[Point]:
        """Return eight scene pixels around a level ellipse of a body."""
        x, y, z = centre
        return [self.at((x + rx * c, y, z + rz * s)) for c, s in _EIGHT]


def draw_figure(
    person: Person,
    camera: Camera,
    place: Vector,
    tone: Tone,
    light: Point,
) -> Sprite | None:
    """Draw a person standing at a place.

    Args:
        person: who and how.
        camera: the view.
        place: ground point (x, y, z) in metres under the body.
        tone: turns a colour of an object into the colour seen under this light and haze.
        light: where the light comes from in the image (right, down).

    Returns:
        The sprite with its body masks, or None when it has no size.
    """
    stance = Stance.of(camera, place, person.heading, person.stature)
    scale = stance.scale
    sketch = Sketch(scale, light)
    joints = pose_joints(person)
    _legs(sketch, stance, person, joints, tone)
    _torso(sketch, stance, person, joints, tone)
    _arms(sketch, stance, person, joints, tone)
    if not person.headless:
        _head(sketch, stance, person, joints, tone)
    draw_carried(sketch, stance, person, joints, tone)
    height = scale * NOMINAL
    samples = 4 if height < 40 else 3 if height < 80 else 2
    return sketch.render(samples, person.texture)


def darker(colour: Colour, factor: float) -> Colour:
    """Return the colour times a factor."""
    return (
        min(255.0, colour[0] * factor),
        min(255.0, colour[1] * factor),
        min(255.0, colour[2] * factor),
    )


def _mix(p: Vector, q: Vector, t: float) -> Vector:
    return (p[0] + (q[0] - p[0]) * t, p[1] + (q[1] - p[1]) * t, p[2] + (q[2] - p[2]) * t)


def _legs(sketch: Sketch, stance: Stance, person: Person, joints: Joints, tone: Tone) -> None:
    scale, build = stance.scale, 0.55 + 0.45 * person.build
    cloth, skin, shoe = tone(person.bottom_colour), tone(person.skin), tone(person.shoes)
    bare = person.bottom in ("skirt", "shorts", "long_skirt") or person.top in ("dress", "robe")
    # A raised thigh must not cover the shirt: upright legs are drawn before the trunk.
    back = 0.0 if person.pose == "sit" else 0.25
    loose = 1.0 if person.feminine or bare else 1.12
    for side in "lr":
        hip, knee = joints["hip_" + side], joints["knee_" + side]
        ankle, heel, toe = (joints[n + side] for n in ("ankle_", "heel_", "toe_"))
        sketch.capsule(
            stance.at(heel), stance.at(toe), (0.04 * scale, 0.034 * scale), shoe,
            stance.depth(toe) + 0.02 + back,
        )  # fmt: skip
        thigh_depth = stance.depth(_mix(hip, knee, 0.5)) + back
        shin_depth = stance.depth(_mix(knee, ankle, 0.5)) + back
        sketch.capsule(
            stance.at(knee), stance.at(ankle),
            (0.056 * build * scale * (1 if bare else loose),
             (0.036 if bare else 0.05 * loose) * scale),
            skin if bare else cloth, shin_depth,
        )  # fmt: skip
        sketch.capsule(
            stance.at(hip), stance.at(knee),
            (0.088 * build * loose * scale, 0.06 * build * loose * scale),
            skin if bare else cloth, thigh_depth,
        )  # fmt: skip
        if person.bottom == "shorts" and person.top not in ("dress", "robe"):
            end = _mix(hip, knee, 0.8)
            sketch.capsule(
                stance.at(hip), stance.at(end), (0.095 * build * scale, 0.085 * build * scale),
                cloth, thigh_depth - 0.01,
            )  # fmt: skip
    centre = _mix(joints["hip_l"], joints["hip_r"], 0.5)
    depth = stance.depth(centre)
    pelvis_colour = cloth if person.top not in ("dress", "robe") else tone(person.top_colour)
    sketch.capsule(
        stance.at(joints["hip_l"]), stance.at(joints["hip_r"]),
        (0.098 * build * scale, 0.098 * build * scale), pelvis_colour, depth - 0.01,
    )  # fmt: skip
    skirt = {"skirt": 0.75, "long_skirt": 1.75}.get(person.bottom, 0.0)
    if person.top == "dress":
        skirt = max(skirt, 0.95)
    if person.top == "robe":
        skirt = 1.8
    if skirt:
        colour = tone(person.top_colour) if person.top in ("dress", "robe") else cloth
        _skirt(sketch, stance, person, joints, colour, skirt, depth - 0.02)
    elif person.top in ("coat", "suit", "jacket", "hoodie"):
        reach = {"coat": 0.85, "suit": 0.18, "jacket": 0.12, "hoodie": 0.1}[person.top]
        _skirt(sketch, stance, person, joints, tone(person.top_colour), reach, depth - 0.03)


def _skirt(
    sketch: Sketch, stance: Stance, person: Person, joints: Joints, colour: Colour, reach: float,
    depth: float,
) -> None:  # fmt: skip
    """Hang cloth from the waist around the legs; ``reach`` 1 is the knee, 2 the ankle."""
    build = person.build
    points = stance.ring(joints["waist"], 0.15 * build, 0.11 * build)
    points += stance.ring(joints["hip"], 0.185 * build, 0.125 * build)
    for side in "lr":
        hip, knee, ankle = (joints[n + side] for n in ("hip_", "knee_", "ankle_"))
        end = _mix(hip, knee, reach) if reach <= 1 else _mix(knee, ankle, reach - 1)
        flare = 0.1 + 0.03 * min(1.0, reach)
        points += stance.ring(end, flare * build, flare * build)
    sketch.hull(points, colour, depth)


def _torso(sketch: Sketch, stance: Stance, person: Person, joints: Joints, tone: Tone) -> None:
    scale, build = stance.scale, person.build
    colour = tone(person.top_colour)
    bulk = {"coat": 1.1, "jacket": 1.08, "hoodie": 1.08, "robe": 1.1}.get(person.top, 1.0)
    half = joints["shoulder_r"][0]
    waist_half = (0.135 if person.feminine else 0.15) * build * bulk
    chest_depth = 0.105 * (0.4 + 0.6 * build) * bulk * (1.08 if person.feminine else 1.0)
    depth = stance.depth(joints["chest"])
    shoulders = stance.ring(_mix(joints["chest"], joints["neck"], 0.68), half * 0.9, 0.055)
    chest = stance.ring(joints["chest"], (half + 0.012) * bulk * 0.97, chest_depth)
    waist = stance.ring(joints["waist"], waist_half, 0.098 * build * bulk)
    hips = stance.ring(joints["hip"], 0.158 * build * bulk, 0.105 * build * bulk)
    sketch.hull(waist + hips, colour, depth + 0.004)
    sketch.hull(chest + waist, colour, depth + 0.002)
    sketch.hull(shoulders + chest, colour, depth)
    sketch.capsule(
        stance.at(joints["shoulder_l"]), stance.at(joints["shoulder_r"]),
        (0.058 * scale * bulk, 0.058 * scale * bulk), colour, depth + 0.001,
    )  # fmt: skip
    neck = joints["neck"]
    sketch.capsule(
        stance.at(_mix(joints["chest"], neck, 0.8)), stance.at(_mix(neck, joints["head"], 0.5)),
        (0.062 * scale, 0.05 * scale), tone(darker(person.skin, 0.9)), depth - 0.002,
    )  # fmt: skip
    if scale < 26:
        return
    facing = -stance.away[2]  # above 0: the chest is turned to the camera
    if facing > 0.15:
        _front(sketch, stance, person, joints, tone, depth - 0.01, chest_depth)
    if person.pattern in ("stripes", "band") and person.top in ("tshirt", "shirt", "dress", "vest"):
        _stripes(sketch, stance, person, joints, tone, depth - 0.006, half)


def _front(
    sketch: Sketch, stance: Stance, person: Person, joints: Joints, tone: Tone, depth: float,
    chest_depth: float,
) -> None:  # fmt: skip
    """Draw what only the front of a body shows: an open jacket, a tie, a zip or a print."""
    under = tone(person.under_colour)
    z = chest_depth

    def on_chest(x: float, t: float) -> Point:
        base = _mix(joints["hip"], joints["neck"], t)
        return stance.at((x, base[1], base[2] + z * (1.0 if t < 0.8 else 0.6)))

    if person.top in ("suit", "jacket", "coat"):
        width = 0.05 if person.top != "suit" else 0.06
        low = 0.45 if person.top == "suit" else 0.02
        sketch.add(
            [on_chest(-width, 0.97), on_chest(width, 0.97), on_chest(0.012, low),
             on_chest(-0.012, low)],
            under, depth,
        )  # fmt: skip
        if person.top == "suit":
            tie = tone((120, 30, 40) if person.texture[0] % 2 else (36, 50, 96))
            sketch.add(
                [on_chest(-0.014, 0.95), on_chest(0.014, 0.95), on_chest(0.02, 0.55),
                 on_chest(-0.02, 0.55)],
                tie, depth - 0.001,
            )  # fmt: skip
    elif person.top in ("hoodie", "shirt"):
        line = tone(darker(person.top_colour, 0.72))
        sketch.add(
            [on_chest(-0.006, 0.96), on_chest(0.006, 0.96), on_chest(0.006, 0.02),
             on_chest(-0.006, 0.02)],
            line, depth,
        )  # fmt: skip
    elif person.pattern == "print":
        sketch.add(
            [on_chest(-0.07, 0.78), on_chest(0.07, 0.78), on_chest(0.06, 0.55),
             on_chest(-0.06, 0.55)],
            under, depth,
        )  # fmt: skip


def _stripes(
    sketch: Sketch, stance: Stance, person: Person, joints: Joints, tone: Tone, depth: float,
    half: float,
) -> None:  # fmt: skip
    under = tone(person.under_colour)
    bands = ((0.1, 0.2), (0.34, 0.44), (0.58, 0.68)) if person.pattern == "stripes" else (
        (0.42, 0.62),)  # fmt: skip
    for low, high in bands:
        points: list[Point] = []
        for t in (low, high):
            base = _mix(joints["hip"], joints["neck"], t)
            wide = 0.145 * person.build + (half - 0.145 * person.build) * max(0.0, t - 0.25) * 1.5
            points += stance.ring(base, wide * 0.98, 0.09)
        sketch.hull(points, under, depth)


def _arms(sketch: Sketch, stance: Stance, person: Person, joints: Joints, tone: Tone) -> None:
    scale, build = stance.scale, 0.6 + 0.4 * person.build
    cloth, skin = tone(person.top_colour), tone(person.skin)
    if person.top == "vest":
        cloth = tone(person.under_colour)
    bulk = {"coat": 1.25, "jacket": 1.2, "hoodie": 1.2, "suit": 1.1, "robe": 1.3}.get(
        person.top, 1.0
    )
    for side in "lr":
        shoulder, elbow, hand = (joints[n + side] for n in ("shoulder_", "elbow_", "hand_"))
        upper = stance.depth(_mix(shoulder, elbow, 0.6)) - 0.035
        fore = stance.depth(_mix(elbow, hand, 0.5)) - 0.04
        long = person.sleeves == "long"
        s, e, h = stance.at(shoulder), stance.at(elbow), stance.at(hand)
        width = build * scale * (bulk if long else 1.0)
        sketch.capsule(e, h, (0.042 * width, 0.03 * width), cloth if long else skin, fore)
        tip = _mix(elbow, hand, 1.22)
        sketch.capsule(h, stance.at(tip), (0.034 * scale, 0.03 * scale), skin, fore + 0.002)
        sketch.capsule(s, e, (0.053 * width, 0.044 * width), cloth if long else skin, upper)
        if not long:
            cuff = stance.at(_mix(shoulder, elbow, 0.55))
            sketch.capsule(
                s, cuff, (0.058 * width * 1.05, 0.058 * width), cloth, upper - 0.002
            )  # fmt: skip


def _head(sketch: Sketch, stance: Stance, person: Person, joints: Joints, tone: Tone) -> None:
    scale = stance.scale
    big = 1.22 if person.child else 1.0
    turn = person.head_turn
    head = joints["head"]
    forward = (sin(turn), 0.0, cos(turn))
    side = (cos(turn), 0.0, -sin(turn))
    rx, ry = 0.086 * big * scale, 0.118 * big * scale
    squash = hypot(stance.column[1], stance.row[1]) / max(scale, 1e-6)  # 1 upright, 0 from above
    ry = rx + (ry - rx) * squash
    facing = -(stance.away[0] * forward[0] + stance.away[2] * forward[2])
    skin, hair = tone(person.skin), tone(person.hair)

    def on_head(right: float, up: float, ahead: float) -> Vector:
        return (
            head[0] + big * (side[0] * right + forward[0] * ahead),
            head[1] + big * up,
            head[2] + big * (side[2] * right + forward[2] * ahead),
        )

    depth = stance.depth(head)
    centre = stance.at(head)
    style = person.hair_style
    covered = person.hat == "hood" and person.top in ("hoodie", "coat", "jacket")
    cap = tone(person.top_colour) if covered else hair
    if style == "scarf":
        cap = tone(person.hat_colour)
    bald = style == "bald" and not covered
    crown = stance.at(on_head(0, 0.015, -0.014))
    grow = {"afro": 1.32, "buzz": 1.0, "long": 1.1, "bob": 1.12}.get(style, 1.06)
    _disc(sketch, centre, rx, ry, skin, depth, 175)
    if not bald:
        _disc(sketch, crown, rx * grow, ry * grow * 0.98, cap, depth - 0.05 * (facing <= 0.2), 170)
        _falling_hair(sketch, stance, on_head, style, cap, (rx, ry), depth, facing, covered)
    if facing > -0.25:
        wide = rx * min(0.9, 0.52 + 0.42 * max(0.0, facing) + 0.2 * (facing < 0.5))
        face = stance.at(on_head(0, -0.018, 0.03))
        _disc(sketch, face, wide, ry * (0.86 if not bald else 0.95), skin, depth - 0.06, 190)
        if rx > 5 and facing > 0.1 and not person.faceless:
            _face(sketch, stance, person, on_head, tone, rx, depth - 0.07)
    if person.hat in ("cap", "beanie", "brim") and not covered:
        _hat(sketch, stance, person, on_head, tone, (rx * max(grow, 1.06), ry), depth, facing)


def _disc(
    sketch: Sketch, centre: Point, rx: float, ry: float, colour: Colour, depth: float, shade: int
) -> None:
    lit = None
    if sketch.scale > 30:
        x, y = centre[0] + sketch.light[0] * rx * 0.3, centre[1] + sketch.light[1] * ry * 0.2
        lit = ellipse_outline((x, y), rx * 0.62, ry * 0.66)
    sketch.add(ellipse_outline(centre, rx, ry), colour, depth, lit=lit, shade=shade)


def _falling_hair(
    sketch: Sketch, stance: Stance, on_head: Callable[[float, float, float], Vector], style: str,
    colour: Colour, radii: Point, depth: float, facing: float, covered: bool,
) -> None:  # fmt: skip
    """Draw hair that falls below the head or is gathered behind it."""
    rx, _ = radii
    length = {"long": -0.27, "bob": -0.12, "scarf": -0.2}.get(style, 0.0)
    if covered:
        length = -0.12
    if length:
        ends = [stance.at(on_head(x, length, -0.06)) for x in (-0.085, 0.085)]
        tops = [stance.at(on_head(x, 0.02, -0.03)) for x in (-0.088, 0.088)]
        behind = depth + 0.045 if facing > 0 else depth - 0.09
        sketch.hull([*tops, *ends], colour, behind)
    if style in ("bun", "tail"):
        knot = stance.at(on_head(0, 0.07 if style == "bun" else 0.02, -0.1))
        behind = stance.depth(on_head(0, 0, -0.1)) - 0.02
        _disc(sketch, knot, rx * 0.5, rx * 0.5, colour, behind, 180)
        if style == "tail":
            end = stance.at(on_head(0, -0.2, -0.13))
            sketch.capsule(knot, end, (rx * 0.36, rx * 0.16), colour, behind + 0.001)


def _face(
    sketch: Sketch, stance: Stance, person: Person,
    on_head: Callable[[float, float, float], Vector], tone: Tone, rx: float, depth: float,
) -> None:  # fmt: skip
    dark = tone((44, 32, 30))
    for x in (-0.034, 0.034):
        surface = on_head(x, 0.0, 0.08)
        if stance.depth(surface) > stance.depth(on_head(0, 0, 0.0)):
            continue
        eye = stance.at(surface)
        if rx > 12:
            white = ellipse_outline(eye, rx * 0.15, rx * 0.09)
            sketch.add(white, tone((232, 226, 220)), depth, shade=240)
            brow = stance.at(on_head(x, 0.026, 0.082))
            sketch.add(
                ellipse_outline(brow, rx * 0.2, rx * 0.05), tone(darker(person.hair, 0.8)), depth
            )
        sketch.add(ellipse_outline(eye, rx * 0.075, rx * 0.085), dark, depth - 0.001)
        if person.glasses:
            sketch.add(
                ellipse_outline(eye, rx * 0.27, rx * 0.22), tone((36, 36, 42)), depth - 0.002
            )
    chin = stance.at(on_head(0, -0.07, 0.075))
    if person.beard:
        low = stance.at(on_head(0, -0.085, 0.06))
        sketch.add(
            ellipse_outline(low, rx * 0.56, rx * 0.42), tone(darker(person.hair, 1.0)), depth
        )
    lips = tone((150, 74, 70)) if not person.beard else tone((120, 66, 60))
    sketch.add(ellipse_outline(chin, rx * 0.25, rx * 0.065), lips, depth - 0.001)
    if rx > 8:
        nose = stance.at(on_head(0, -0.028, 0.1))
        sketch.add(
            ellipse_outline(nose, rx * 0.1, rx * 0.13), tone(darker(person.skin, 0.86)), depth,
            shade=215,
        )  # fmt: skip


def _hat(
    sketch: Sketch, stance: Stance, person: Person,
    on_head: Callable[[float, float, float], Vector], tone: Tone, radii: Point, depth: float,
    facing: float,
) -> None:  # fmt: skip
    colour, shadow = tone(person.hat_colour), tone(darker(person.hat_colour, 0.7))
    points = [stance.at(on_head(0.094 * c, 0.045, 0.1 * s)) for c, s in _EIGHT]
    points += [stance.at(on_head(0.08 * c, 0.11, 0.085 * s)) for c, s in _EIGHT]
    points.append(stance.at(on_head(0, 0.142, -0.01)))
    sketch.hull(points, colour, depth - 0.12)
    if person.hat == "cap":
        brim = [stance.at(on_head(0.075 * c, 0.05, 0.1 + 0.075 * s)) for c, s in _EIGHT]
        sketch.hull(brim, shadow, depth - (0.13 if facing > 0 else -0.02))
    elif person.hat == "brim":
        brim = [stance.at(on_head(0.175 * c, 0.05, 0.18 * s)) for c, s in _EIGHT]
        sketch.hull(brim, shadow, depth - 0.11)
    else:
        fold = [
            stance.at(on_head(0.097 * c, y, 0.104 * s)) for c, s in _EIGHT for y in (0.03, 0.06)
        ]
        sketch.hull(fold, shadow, depth - 0.125)
