"""Where the joints of a posed body are."""

from __future__ import annotations

from math import cos, sin

from dip_env.scenes.procedural.drawing.people.person import Person
from dip_env.scenes.procedural.drawing.render.camera import Vector

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

    def arm_at(upper: Vector, fore: Vector) -> tuple[Vector, Vector]:
        elbow = (x + upper[0], y - upper[1], z + upper[2])
        return elbow, (elbow[0] + fore[0], elbow[1] - fore[1], elbow[2] + fore[2])

    arms = person.arms
    if "suitcase" in person.carried and right:
        return arm_at((out, 0.27, -0.08), (0.02, 0.22, -0.12))
    if "umbrella" in person.carried and right:
        return arm_at((out, 0.27, 0.06), (-sign * 0.08, -0.16, 0.18))
    if arms == "swing":
        angle = -sign * swing * 0.9
        bend = 0.25 + 0.3 * max(0.0, angle)
        return arm_at(
            (out, 0.28 * cos(angle), 0.28 * sin(angle)),
            (out * 0.2, 0.26 * cos(angle + bend), 0.26 * sin(angle + bend)),
        )
    if arms == "phone" and (right or person.lean > 0.04):
        return arm_at((out, 0.26, 0.08), (-sign * 0.12, -0.08, 0.21))
    if arms == "call" and right:
        return arm_at((out * 2.2, 0.22, 0.12), (-sign * 0.12, -0.25, -0.02))
    if arms == "crossed":
        return arm_at((out, 0.26, 0.09), (-sign * 0.24, -0.04, 0.08))
    if arms == "hip":
        return arm_at((out * 3.6, 0.23, -0.03), (-sign * 0.17, 0.16, 0.09))
    if arms == "pockets":
        return arm_at((out * 1.5, 0.27, -0.04), (-sign * 0.05, 0.21, 0.1))
    if arms == "wave" and right:
        return arm_at((out * 4.0, 0.14, 0.05), (sign * 0.06, -0.26, 0.05))
    if arms == "point" and right:
        return arm_at((out * 1.5, 0.05, 0.27), (out * 0.3, 0.0, 0.26))
    if arms == "behind":
        return arm_at((out * 1.4, 0.26, -0.08), (-sign * 0.17, 0.16, -0.1))
    if arms == "lap":
        return arm_at((out, 0.25, 0.1), (-sign * 0.06, 0.1, 0.22))
    return arm_at((out, 0.28, 0.0), (out * 0.2, 0.26, 0.05))
