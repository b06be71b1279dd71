"""What people carry: bags, cases and umbrellas, drawn behind or before the body."""

from __future__ import annotations

from math import cos, pi, sin

from dip_env.scenes.procedural.drawing.people.joints import Joints
from dip_env.scenes.procedural.drawing.people.person import Person
from dip_env.scenes.procedural.drawing.people.stance import Stance
from dip_env.scenes.procedural.drawing.render.camera import Vector
from dip_env.scenes.procedural.drawing.render.canvas import BEHIND, FRONT, Sketch
from dip_env.scenes.procedural.drawing.render.colours import Colour, Tone, dimmed


def draw_carried(
    sketch: Sketch,
    stance: Stance,
    person: Person,
    joints: Joints,
    tone: Tone,
) -> None:
    """Add what a person carries, which is not part of the body.

    Args:
        sketch: receives the shapes.
        stance: projection of the body.
        person: who carries what.
        joints: of the posed body, metres.
        tone: colour under the scene's light.
    """
    for kind, colour in zip(person.carried, person.carried_colours, strict=True):
        seen, dark = tone(colour), tone(dimmed(colour, 0.7))
        if kind == "backpack":
            _backpack(sketch, stance, joints, seen, dark)
        elif kind == "shoulder_bag":
            _shoulder_bag(sketch, stance, person, joints, seen, dark)
        elif kind == "umbrella":
            _umbrella(sketch, stance, joints, seen, dark, tone((60, 58, 58)))
        elif kind == "suitcase":
            _suitcase(sketch, stance, joints, seen, dark)
        else:
            _hand_bag(sketch, stance, joints, seen, dark, kind)


def _layer(stance: Stance, point: Vector, body: Vector) -> int:
    return FRONT if stance.depth(point) < stance.depth(body) else BEHIND


def _box(
    sketch: Sketch, stance: Stance, centre: Vector, half: Vector, colour: Colour, layer: int
) -> None:
    x, y, z = centre
    corners = [
        stance.at((x + half[0] * a, y + half[1] * b, z + half[2] * c))
        for a in (-1, 1)
        for b in (-1, 1)
        for c in (-1, 1)
    ]
    sketch.hull(corners, colour, stance.depth(centre), layer)


def _backpack(sketch: Sketch, stance: Stance, joints: Joints, colour: Colour, dark: Colour) -> None:
    chest = joints["chest"]
    centre = (0.0, chest[1] - 0.02, chest[2] - 0.19)
    layer = _layer(stance, centre, chest)
    _box(sketch, stance, centre, (0.13, 0.2, 0.08), colour, layer)
    _box(sketch, stance, (0, centre[1] - 0.08, centre[2] - 0.08), (0.1, 0.09, 0.03), dark, layer)
    if layer == BEHIND:
        for side, sign in (("l", -1), ("r", 1)):
            top = joints["shoulder_" + side]
            sketch.capsule(
                stance.at((sign * 0.1, top[1] + 0.03, chest[2] + 0.08)),
                stance.at((sign * 0.12, chest[1] - 0.16, chest[2] + 0.1)),
                (0.02 * stance.scale, 0.018 * stance.scale),
                dark,
                stance.depth((0, chest[1], chest[2] + 0.2)),
                FRONT,
            )


def _shoulder_bag(
    sketch: Sketch, stance: Stance, person: Person, joints: Joints, colour: Colour, dark: Colour
) -> None:
    sign = 1 if person.texture[0] % 2 else -1
    hip = joints["hip"]
    centre = (sign * 0.25 * person.build, hip[1] + 0.02, hip[2] + 0.02)
    layer = _layer(stance, centre, (0.0, hip[1], hip[2] + 0.05))
    shoulder = joints["shoulder_r" if sign > 0 else "shoulder_l"]
    start = stance.at((shoulder[0] * 0.8, shoulder[1] + 0.05, shoulder[2]))
    thin = 0.011 * stance.scale
    for z in (-0.06, 0.06):
        end = stance.at((centre[0], centre[1] + 0.1, centre[2] + z))
        sketch.capsule(start, end, (thin, thin), dark, stance.depth(centre) + 0.01, layer)
    _box(sketch, stance, centre, (0.05, 0.12, 0.15), colour, layer)


def _hand_bag(
    sketch: Sketch, stance: Stance, joints: Joints, colour: Colour, dark: Colour, kind: str
) -> None:
    hand = joints["hand_r"]
    half = (0.045, 0.15, 0.18) if kind == "briefcase" else (0.07, 0.18, 0.14)
    centre = (hand[0] + 0.03, max(hand[1] - 0.1 - half[1], half[1] + 0.04), hand[2] + 0.03)
    layer = _layer(stance, centre, (0.0, centre[1], joints["hip"][2]))
    thin = 0.01 * stance.scale
    for z in (-0.06, 0.06):
        end = stance.at((centre[0], centre[1] + half[1], centre[2] + z))
        sketch.capsule(stance.at(hand), end, (thin, thin), dark, stance.depth(hand) - 0.03, layer)
    _box(sketch, stance, centre, half, colour, layer)


def _suitcase(sketch: Sketch, stance: Stance, joints: Joints, colour: Colour, dark: Colour) -> None:
    hand = joints["hand_r"]
    centre = (hand[0] + 0.05, 0.34, hand[2] - 0.2)
    layer = _layer(stance, centre, joints["hip"])
    thin = 0.014 * stance.scale
    top = stance.at((centre[0], 0.62, centre[2]))
    sketch.capsule(stance.at(hand), top, (thin, thin), dark, stance.depth(centre), layer)
    _box(sketch, stance, centre, (0.19, 0.28, 0.12), colour, layer)
    _box(sketch, stance, (centre[0], 0.34, centre[2] - 0.125), (0.15, 0.02, 0.005), dark, layer)
    for x in (-0.15, 0.15):
        _box(sketch, stance, (centre[0] + x, 0.03, centre[2]), (0.025, 0.03, 0.03), dark, layer)


def _umbrella(
    sketch: Sketch, stance: Stance, joints: Joints, colour: Colour, dark: Colour, metal: Colour
) -> None:
    hand = joints["hand_r"]
    top = (hand[0] * 0.6, joints["head"][1] + 0.42, hand[2] * 0.6)
    thin = 0.012 * stance.scale
    layer = _layer(stance, hand, joints["chest"])
    sketch.capsule(
        stance.at(hand), stance.at(top), (thin, thin), metal, stance.depth(hand) + 0.3, layer
    )
    depth = stance.depth(top)
    rim = [
        (top[0] + 0.52 * cos(pi * k / 4), top[1] - 0.2, top[2] + 0.52 * sin(pi * k / 4))
        for k in range(8)
    ]
    ring = [
        (top[0] + 0.34 * cos(pi * k / 4), top[1] - 0.06, top[2] + 0.34 * sin(pi * k / 4))
        for k in range(8)
    ]
    sketch.hull([stance.at(p) for p in rim], dark, depth + 0.9, BEHIND)
    sketch.hull([stance.at(p) for p in (*rim, *ring, top)], colour, depth - 0.5, FRONT)
    for k in range(0, 8, 2):
        sketch.add(
            [stance.at(top), stance.at(ring[k]), stance.at(rim[k]), stance.at(rim[(k + 1) % 8]),
             stance.at(ring[(k + 1) % 8])],
            dark, depth - 0.6, FRONT, shade=235,
        )  # fmt: skip
