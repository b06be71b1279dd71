"""Draws heads: hair, face and hats, seen from any side."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, hypot, sin

from dip_env.scenes.procedural.drawing.people.joints import Joints
from dip_env.scenes.procedural.drawing.people.person import Person
from dip_env.scenes.procedural.drawing.people.stance import EIGHT, Stance
from dip_env.scenes.procedural.drawing.render.camera import Point, Vector
from dip_env.scenes.procedural.drawing.render.canvas import Sketch
from dip_env.scenes.procedural.drawing.render.colours import Colour, Tone, dimmed
from dip_env.scenes.procedural.drawing.render.outlines import ellipse_outline

OnHead = Callable[[float, float, float], Vector]
"""Body point from (right, up, ahead) of the head's middle, metres."""


def draw_head(sketch: Sketch, stance: Stance, person: Person, joints: Joints, tone: Tone) -> None:
    """Add head, hair, face and hat to a sketch.

    Args:
        sketch: receives the shapes.
        stance: projection of the body.
        person: whose head it is.
        joints: of the posed body, metres.
        tone: colour under the scene's light.
    """
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
    sketch: Sketch,
    stance: Stance,
    on_head: OnHead,
    style: str,
    colour: Colour,
    radii: Point,
    depth: float,
    facing: float,
    covered: bool,
) -> None:
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
    sketch: Sketch,
    stance: Stance,
    person: Person,
    on_head: OnHead,
    tone: Tone,
    rx: float,
    depth: float,
) -> None:
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
                ellipse_outline(brow, rx * 0.2, rx * 0.05), tone(dimmed(person.hair, 0.8)), depth
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
            ellipse_outline(low, rx * 0.56, rx * 0.42), tone(dimmed(person.hair, 1.0)), depth
        )
    lips = tone((150, 74, 70)) if not person.beard else tone((120, 66, 60))
    sketch.add(ellipse_outline(chin, rx * 0.25, rx * 0.065), lips, depth - 0.001)
    if rx > 8:
        nose = stance.at(on_head(0, -0.028, 0.1))
        sketch.add(
            ellipse_outline(nose, rx * 0.1, rx * 0.13), tone(dimmed(person.skin, 0.86)), depth,
            shade=215,
        )  # fmt: skip


def _hat(
    sketch: Sketch,
    stance: Stance,
    person: Person,
    on_head: OnHead,
    tone: Tone,
    radii: Point,
    depth: float,
    facing: float,
) -> None:
    colour, shadow = tone(person.hat_colour), tone(dimmed(person.hat_colour, 0.7))
    points = [stance.at(on_head(0.094 * c, 0.045, 0.1 * s)) for c, s in EIGHT]
    points += [stance.at(on_head(0.08 * c, 0.11, 0.085 * s)) for c, s in EIGHT]
    points.append(stance.at(on_head(0, 0.142, -0.01)))
    sketch.hull(points, colour, depth - 0.12)
    if person.hat == "cap":
        brim = [stance.at(on_head(0.075 * c, 0.05, 0.1 + 0.075 * s)) for c, s in EIGHT]
        sketch.hull(brim, shadow, depth - (0.13 if facing > 0 else -0.02))
    elif person.hat == "brim":
        brim = [stance.at(on_head(0.175 * c, 0.05, 0.18 * s)) for c, s in EIGHT]
        sketch.hull(brim, shadow, depth - 0.11)
    else:
        fold = [stance.at(on_head(0.097 * c, y, 0.104 * s)) for c, s in EIGHT for y in (0.03, 0.06)]
        sketch.hull(fold, shadow, depth - 0.125)
