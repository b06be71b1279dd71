"""Draws a posed person as a sprite: limbs and clothes, then head and carried things."""

from __future__ import annotations

from dip_env.scenes.procedural.drawing.people.carried import draw_carried
from dip_env.scenes.procedural.drawing.people.heads import draw_head
from dip_env.scenes.procedural.drawing.people.joints import Joints, pose_joints
from dip_env.scenes.procedural.drawing.people.person import Person
from dip_env.scenes.procedural.drawing.people.stance import NOMINAL, Stance, mix
from dip_env.scenes.procedural.drawing.render.camera import Camera, Point, Vector
from dip_env.scenes.procedural.drawing.render.canvas import Sketch, Sprite
from dip_env.scenes.procedural.drawing.render.colours import Colour, Tone, dimmed


def draw_figure(
    person: Person,
    camera: Camera,
    position: Vector,
    tone: Tone,
    light: Point,
) -> Sprite | None:
    """Draw a person at a position.

    Args:
        person: who and how.
        camera: the view.
        position: ground point (x, y, z) in metres under the body.
        tone: turns a colour of an object into the colour seen under this light and haze.
        light: where the light comes from in the image (right, down).

    Returns:
        The sprite with its body masks, or None when it has no size.
    """
    stance = Stance.of(camera, position, person.heading, person.stature)
    scale = stance.scale
    sketch = Sketch(scale, light)
    joints = pose_joints(person)
    _legs(sketch, stance, person, joints, tone)
    _torso(sketch, stance, person, joints, tone)
    _arms(sketch, stance, person, joints, tone)
    if not person.headless:
        draw_head(sketch, stance, person, joints, tone)
    draw_carried(sketch, stance, person, joints, tone)
    height = scale * NOMINAL
    samples = 4 if height < 40 else 3 if height < 80 else 2
    return sketch.render(samples, person.texture)


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
        thigh_depth = stance.depth(mix(hip, knee, 0.5)) + back
        shin_depth = stance.depth(mix(knee, ankle, 0.5)) + back
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
            end = mix(hip, knee, 0.8)
            sketch.capsule(
                stance.at(hip), stance.at(end), (0.095 * build * scale, 0.085 * build * scale),
                cloth, thigh_depth - 0.01,
            )  # fmt: skip
    centre = mix(joints["hip_l"], joints["hip_r"], 0.5)
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
    sketch: Sketch,
    stance: Stance,
    person: Person,
    joints: Joints,
    colour: Colour,
    reach: float,
    depth: float,
) -> None:
    """Hang cloth from the waist around the legs; ``reach`` 1 is the knee, 2 the ankle."""
    build = person.build
    points = stance.ring(joints["waist"], 0.15 * build, 0.11 * build)
    points += stance.ring(joints["hip"], 0.185 * build, 0.125 * build)
    for side in "lr":
        hip, knee, ankle = (joints[n + side] for n in ("hip_", "knee_", "ankle_"))
        end = mix(hip, knee, reach) if reach <= 1 else mix(knee, ankle, reach - 1)
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
    shoulders = stance.ring(mix(joints["chest"], joints["neck"], 0.68), half * 0.9, 0.055)
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
        stance.at(mix(joints["chest"], neck, 0.8)), stance.at(mix(neck, joints["head"], 0.5)),
        (0.062 * scale, 0.05 * scale), tone(dimmed(person.skin, 0.9)), depth - 0.002,
    )  # fmt: skip
    if scale < 26:
        return
    facing = -stance.away[2]  # above 0: the chest is turned to the camera
    if facing > 0.15:
        _front(sketch, stance, person, joints, tone, depth - 0.01, chest_depth)
    if person.pattern in ("stripes", "band") and person.top in ("tshirt", "shirt", "dress", "vest"):
        _stripes(sketch, stance, person, joints, tone, depth - 0.006, half)


def _front(
    sketch: Sketch,
    stance: Stance,
    person: Person,
    joints: Joints,
    tone: Tone,
    depth: float,
    chest_depth: float,
) -> None:
    """Draw what only the front of a body shows: an open jacket, a tie, a zip or a print."""
    under = tone(person.under_colour)
    z = chest_depth

    def on_chest(x: float, t: float) -> Point:
        base = mix(joints["hip"], joints["neck"], t)
        return stance.at((x, base[1], base[2] + z * (1.0 if t < 0.8 else 0.6)))

    if person.top in ("suit", "jacket", "coat"):
        width = 0.05 if person.top != "suit" else 0.06
        low = 0.45 if person.top == "suit" else 0.02
        sketch.add(
            [on_chest(-width, 0.97), on_chest(width, 0.97), on_chest(0.012, low),
             on_chest(-0.012, low)],
            under, depth,
        )  # fmt: skip
        if person.top == "suit" and not person.faceless:
            tie = tone((120, 30, 40) if person.texture[0] % 2 else (36, 50, 96))
            sketch.add(
                [on_chest(-0.014, 0.95), on_chest(0.014, 0.95), on_chest(0.02, 0.55),
                 on_chest(-0.02, 0.55)],
                tie, depth - 0.001,
            )  # fmt: skip
    elif person.top in ("hoodie", "shirt"):
        line = tone(dimmed(person.top_colour, 0.72))
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
    sketch: Sketch,
    stance: Stance,
    person: Person,
    joints: Joints,
    tone: Tone,
    depth: float,
    half: float,
) -> None:
    under = tone(person.under_colour)
    bands = ((0.1, 0.2), (0.34, 0.44), (0.58, 0.68)) if person.pattern == "stripes" else (
        (0.42, 0.62),)  # fmt: skip
    for low, high in bands:
        points: list[Point] = []
        for t in (low, high):
            base = mix(joints["hip"], joints["neck"], t)
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
        upper = stance.depth(mix(shoulder, elbow, 0.6)) - 0.035
        fore = stance.depth(mix(elbow, hand, 0.5)) - 0.04
        long = person.sleeves == "long"
        s, e, h = stance.at(shoulder), stance.at(elbow), stance.at(hand)
        width = build * scale * (bulk if long else 1.0)
        sketch.capsule(e, h, (0.042 * width, 0.03 * width), cloth if long else skin, fore)
        tip = mix(elbow, hand, 1.22)
        sketch.capsule(h, stance.at(tip), (0.034 * scale, 0.03 * scale), skin, fore + 0.002)
        sketch.capsule(s, e, (0.053 * width, 0.044 * width), cloth if long else skin, upper)
        if not long:
            cuff = stance.at(mix(shoulder, elbow, 0.55))
            sketch.capsule(
                s, cuff, (0.058 * width * 1.05, 0.058 * width), cloth, upper - 0.002
            )  # fmt: skip
