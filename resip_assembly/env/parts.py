"""Parts as primitives. Lengths are millimetres in comments and metres in the code; z is up when assembled.

A hole is walls of boxes, a spigot is vertical capsules: both have analytic contacts, no mesh and no SDF. The
hemispheres at a capsule's end are the chamfer. Sizes are the paper's (sheet §3.3, from the authors' meshes).

Contact bits: the floor and the fixtures touch parts and grippers, parts touch grippers. What never meets is
not tested, which makes the step two to three times cheaper.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

import math
from collections.abc import Callable

import mujoco

FLOOR, PART, GRIPPER, FIXTURE = 1, 2, 4, 8

# Two step lengths is the shortest stable time constant (5 ms steps). The impedance of a spigot is far higher
# than MuJoCo's default: at 0.95 a sideways 3 N would press a 30 g peg 0.5 mm into a wall 0.08 mm away.
CONTACT_SOLREF = [0.01, 1.0]
PART_SOLIMP = [0.95, 0.99, 0.001, 0.5, 2]
SPIGOT_SOLIMP = [0.999, 0.9999, 0.001, 0.5, 2]
PART_FRICTION = [0.6, 0.005, 0.0001]
SPIGOT_FRICTION = [0.25, 0.005, 0.0001]  # factory parts, sheet §2.4

WOOD, STEEL, DARK = [0.85, 0.72, 0.53, 1], [0.62, 0.66, 0.72, 1], [0.3, 0.34, 0.42, 1]

PEG_SIZE = (0.016, 0.010, 0.050)  # 16 x 10 x 50
PEG_HOLE = (0.016218, 0.010158, 0.00899)  # play 0.218 x 0.158 in all
LEG_SIZE = (0.030, 0.030, 0.0875)
LEG_SPIGOT_LENGTH, LEG_SPIGOT_RADIUS, SPIGOT_EDGE = 0.024, 0.010, 0.0025
ROUND_TOP_SIZE = (0.200, 0.200, 0.032)  # a square of the disc's width
ROUND_LEG_WIDTH, ROUND_LEG_HANDLE, ROUND_LEG_STUD = 0.034, 0.051, 0.016  # 91 long with its spigot
ROUND_BASE_HALF, ROUND_BASE_PLATE, ROUND_BASE_HUB = 0.065, 0.016, 0.024  # 130 x 130 x 40
LAMP_BASE_SIZE, LAMP_BASE_HEIGHT = 0.085, 0.063
BULB_WIDTH, BULB_HANDLE = 0.036, 0.097  # 121 long with its spigot
HOOD_SIZE, HOOD_HEIGHT, HOOD_SOCKET, HOOD_PLAY = 0.088, 0.100, 0.015, 0.001
MUG_WIDTH, MUG_HEIGHT = 0.050, 0.070
MUG_LOOP_OFFSET, MUG_LOOP_HALF = (
    0.044,
    0.020,
)  # middle of the handle's opening from the mug's; half its height
RACK_ARM_Z, RACK_ARM_LENGTH, RACK_ARM_RADIUS, RACK_ARM_TILT = 0.16, 0.09, 0.006, math.radians(15)
TOP_SIZE = (0.1625, 0.1625, 0.031)
TOP_HOLE_OFFSET, TOP_HOLE_HALF = 0.05625, 0.0105  # 0.5 mm of play per side (feasibility note)

Interval = tuple[float, float]
Geometry = Callable[[mujoco.MjsBody], None]


def box(
    body: mujoco.MjsBody, lower: list[float], upper: list[float], touches: int, kind: int, **fields: object
) -> None:
    """Add the box between two corners (m), of contact type `kind`, that looks for the bits `touches`."""
    centre = [(a + b) / 2 for a, b in zip(lower, upper, strict=True)]
    half = [(b - a) / 2 for a, b in zip(lower, upper, strict=True)]
    body.add_geom(
        **{
            "type": mujoco.mjtGeom.mjGEOM_BOX,
            "pos": centre,
            "size": half,
            "contype": kind,
            "conaffinity": touches,
            "friction": PART_FRICTION,
            "solref": CONTACT_SOLREF,
            "solimp": PART_SOLIMP,
            "rgba": WOOD,
        }
        | fields
    )


def spigot(
    body: mujoco.MjsBody,
    centres: list[tuple[float, float]],
    radius: float,
    z: tuple[float, float],
    **fields: object,
) -> None:
    """Vertical capsules with their axes at `centres`, from z[0] to z[1] hemispheres included."""
    for x, y in centres:
        body.add_geom(
            **{
                "type": mujoco.mjtGeom.mjGEOM_CAPSULE,
                "fromto": [x, y, z[0] + radius, x, y, z[1] - radius],
                "size": [radius, 0, 0],
                "contype": PART,
                "conaffinity": FLOOR | FIXTURE,
                "friction": SPIGOT_FRICTION,
                "solref": CONTACT_SOLREF,
                "solimp": SPIGOT_SOLIMP,
                "priority": 1,  # its softness and friction count, not a mix with the wall's
                "mass": 0.0,
                "rgba": STEEL,
            }
            | fields
        )


def plate_with_holes(
    body: mujoco.MjsBody,
    half: tuple[float, float],
    z: Interval,
    holes_x: list[Interval],
    holes_y: list[Interval],
    **fields: object,
) -> None:
    """A plate with rectangular through holes on a grid: `holes_x`, `holes_y` list their (low, high)."""

    def fixture(low_x: float, low_y: float, high_x: float, high_y: float) -> None:
        box(body, [low_x, low_y, z[0]], [high_x, high_y, z[1]], touches=0, kind=FIXTURE, **fields)

    low = -half[1]
    for hole_low, hole_high in holes_y:
        fixture(-half[0], low, half[0], hole_low)
        left = -half[0]
        for x_low, x_high in holes_x:
            fixture(left, hole_low, x_low, hole_high)
            left = x_high
        fixture(left, hole_low, half[0], hole_high)
        low = hole_high
    fixture(-half[0], low, half[0], half[1])


def peg(body: mujoco.MjsBody) -> None:
    """16 x 10 x 50 peg, origin in the middle of its bottom. Its four edges are capsules of 1 mm (the paper's
    bevel is 0.4 mm). 32 g (density 4000) instead of 4 g, which a gripper would flick away (sheet §7.2), and
    no moment of inertia below 2e-5 kg m2: a thinner peg turns in the fingers at this time step."""
    x, y, z = PEG_SIZE[0] / 2, PEG_SIZE[1] / 2, PEG_SIZE[2]
    # the body that fingers touch; 0.1 mm inside the edges, so that the floor meets the capsules only
    box(body, [-x, -y, 0.0001], [x, y, z], touches=GRIPPER, kind=PART, mass=0, rgba=STEEL)
    body.mass, body.inertia, body.explicitinertial = 0.032, [2e-5, 2e-5, 2e-5], True
    body.ipos = [0, 0, z / 2]
    r = 0.001
    corners = [(sx * (x - r), sy * (y - r)) for sx in (-1, 1) for sy in (-1, 1)]
    spigot(body, corners, r, (0, z))
    # between the edges, or the peg would sink astride a wall that is thinner than it is wide
    bar = {"fromto": [r - x, 0, r, x - r, 0, r], "conaffinity": FIXTURE}
    spigot(body, [(0, 0)], r, (0, z), **bar)


def peg_hole(body: mujoco.MjsBody) -> None:
    """25 x 25 x 8.99 block with a 16.218 x 10.158 opening, origin in the middle of its bottom."""
    x, y, z = PEG_HOLE[0] / 2, PEG_HOLE[1] / 2, PEG_HOLE[2]
    plate_with_holes(body, (0.0125, 0.0125), (0, z), [(-x, x)], [(-y, y)], rgba=DARK)


def square_leg(body: mujoco.MjsBody) -> None:
    """30 x 30 x 87.5 leg with a round 24 mm spigot, origin in its middle, spigot down. The spigot is a ring
    of eight capsules, so that the leg can be screwed in the square hole."""
    half, tip = LEG_SIZE[2] / 2, -LEG_SIZE[2] / 2
    shoulder = tip + LEG_SPIGOT_LENGTH
    width = LEG_SIZE[0] / 2
    touches = FLOOR | GRIPPER | FIXTURE
    box(body, [-width, -width, shoulder], [width, width, half], touches, PART, mass=0.05)
    spigot(body, _ring(), SPIGOT_EDGE, (tip, shoulder + SPIGOT_EDGE), conaffinity=FLOOR | FIXTURE | GRIPPER)


def square_top(body: mujoco.MjsBody) -> None:
    """162.5 x 162.5 x 31 table top, holes up, origin in its middle."""
    low, high = TOP_HOLE_OFFSET - TOP_HOLE_HALF, TOP_HOLE_OFFSET + TOP_HOLE_HALF
    holes = [(-high, -low), (low, high)]
    half = TOP_SIZE[2] / 2
    plate_with_holes(body, (TOP_SIZE[0] / 2, TOP_SIZE[1] / 2), (-half, half), holes, holes)


def obstacle(body: mujoco.MjsBody) -> None:
    """U-shaped guide: front bar at the origin, side bars 75 mm behind and 175 mm to either side."""
    for lower, upper in (
        ([-0.0125, -0.1875, -0.015], [0.0125, 0.1875, 0.015]),
        ([-0.125, 0.1625, -0.015], [-0.0125, 0.1875, 0.015]),
        ([-0.125, -0.1875, -0.015], [-0.0125, -0.1625, 0.015]),
    ):
        box(body, lower, upper, touches=0, kind=FIXTURE, rgba=DARK)


def round_top(body: mujoco.MjsBody) -> None:
    """Table top of the round table, 200 wide and 32 thick, one hole, origin in its middle."""
    half, hole = ROUND_TOP_SIZE[2] / 2, [(-TOP_HOLE_HALF, TOP_HOLE_HALF)]
    plate_with_holes(body, (ROUND_TOP_SIZE[0] / 2, ROUND_TOP_SIZE[1] / 2), (-half, half), hole, hole)


def round_leg(body: mujoco.MjsBody) -> None:
    """91 mm leg: spigot for the top below, handle, stud for the base above; origin at the lower shoulder."""
    width, handle = ROUND_LEG_WIDTH / 2, ROUND_LEG_HANDLE
    box(body, [-width, -width, 0], [width, width, handle], FLOOR | GRIPPER | FIXTURE, PART, mass=0.05)
    spigot(body, _ring(), SPIGOT_EDGE, (-LEG_SPIGOT_LENGTH, SPIGOT_EDGE))
    spigot(body, _ring(), SPIGOT_EDGE, (handle - SPIGOT_EDGE, handle + ROUND_LEG_STUD - 0.001))


def round_base(body: mujoco.MjsBody) -> None:
    """130 x 130 x 40 foot, hole down, hub up (what fingers hold); origin in the middle of its underside."""
    half, plate = ROUND_BASE_HALF, ROUND_BASE_PLATE
    hole = [(-TOP_HOLE_HALF, TOP_HOLE_HALF)]
    plate_with_holes(body, (half, half), (0.001, plate), hole, hole, contype=PART, conaffinity=PART, mass=0)
    box(body, [-0.02, -0.02, plate], [0.02, 0.02, plate + ROUND_BASE_HUB], GRIPPER | PART, PART, mass=0)
    feet(body, half - 0.003, 0.003)
    body.mass, body.inertia, body.explicitinertial = 0.1, [2e-4, 2e-4, 3e-4], True
    body.ipos = [0, 0, 0.015]


def lamp_base(body: mujoco.MjsBody) -> None:
    """85 x 85 x 63 socket with a 24 mm deep hole on top, origin in the middle of its underside."""
    half, top = LAMP_BASE_SIZE / 2, LAMP_BASE_HEIGHT
    floor = top - LEG_SPIGOT_LENGTH - 0.003
    hole = [(-TOP_HOLE_HALF, TOP_HOLE_HALF)]
    box(body, [-half, -half, 0], [half, half, floor], touches=0, kind=FIXTURE, rgba=DARK)
    plate_with_holes(body, (half, half), (floor, top), hole, hole, rgba=DARK)


def bulb(body: mujoco.MjsBody) -> None:
    """121 mm bulb with a spigot and rounded upper edges; square, so that it does not roll away, which the
    authors prevent by holding it until the hand is near. Origin at the shoulder."""
    width, height = BULB_WIDTH / 2, BULB_HANDLE
    box(body, [-width, -width, 0], [width, width, height - 0.012], FLOOR | GRIPPER | FIXTURE, PART, mass=0.06)
    spigot(body, _ring(), SPIGOT_EDGE, (-LEG_SPIGOT_LENGTH, SPIGOT_EDGE))
    r = 0.004
    corners = [(x, y) for x in (r - width, width - r) for y in (r - width, width - r)]
    spigot(body, corners, r, (height - 0.020, height))


def hood(body: mujoco.MjsBody) -> None:
    """88 x 88 x 100 shade with a socket inside its ceiling and a knob on top; origin below its middle."""
    half, height, opening = HOOD_SIZE / 2, HOOD_HEIGHT, BULB_WIDTH / 2 + HOOD_PLAY
    ceiling, hole = height - 0.004, [(-opening, opening)]
    socket = (ceiling - HOOD_SOCKET, ceiling)
    plate_with_holes(body, (half, half), socket, hole, hole, contype=PART, conaffinity=PART, mass=0)
    box(body, [-half, -half, ceiling], [half, half, height], PART, PART, mass=0)
    box(body, [-0.015, -0.015, height], [0.015, 0.015, height + 0.02], GRIPPER, PART, mass=0)
    for a, b in (((-half, -half), (-half + 0.002, half)), ((half - 0.002, -half), (half, half))):
        for x, y in ((0, 1), (1, 0)):
            box(body, [a[x], a[y], 0.003], [b[x], b[y], socket[0]], touches=0, kind=0, mass=0)
    feet(body, half - 0.003, 0.003)
    body.mass, body.inertia, body.explicitinertial = 0.08, [2e-4, 2e-4, 2e-4], True
    body.ipos = [0, 0, height / 2]


def mug(body: mujoco.MjsBody) -> None:
    """50 x 50 x 70 mug with a handle of three bars on its +x side; origin in its middle."""
    half, height, bar = MUG_WIDTH / 2, MUG_HEIGHT / 2, 0.006
    box(body, [-half, -half, -height], [half, half, height], FLOOR | GRIPPER | FIXTURE, PART, mass=0.06)
    outer, loop = half + 2 * (MUG_LOOP_OFFSET - half), MUG_LOOP_HALF
    for low, high in (
        ([half, -bar, loop], [outer, bar, loop + bar]),
        ([half, -bar, -loop - bar], [outer, bar, -loop]),
        ([outer, -bar, -loop - bar], [outer + bar, bar, loop + bar]),
    ):
        box(body, low, high, FIXTURE, PART, mass=0)


def rack(body: mujoco.MjsBody) -> None:
    """A post with one arm that points along +y and 15 degrees up; origin in the middle of its underside."""
    box(body, [-0.05, -0.05, 0], [0.05, 0.05, 0.01], touches=0, kind=FIXTURE)
    box(body, [-0.008, -0.016, 0.01], [0.008, 0, RACK_ARM_Z + 0.012], touches=0, kind=FIXTURE)
    y, z = RACK_ARM_LENGTH * math.cos(RACK_ARM_TILT), RACK_ARM_LENGTH * math.sin(RACK_ARM_TILT)
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[0, 0, RACK_ARM_Z, 0, y, RACK_ARM_Z + z],
        size=[RACK_ARM_RADIUS, 0, 0],
        contype=FIXTURE,
        conaffinity=0,
        friction=PART_FRICTION,
        solref=CONTACT_SOLREF,
        solimp=PART_SOLIMP,
        rgba=WOOD,
    )


def feet(body: mujoco.MjsBody, offset: float, radius: float) -> None:
    """Four spheres under the corners: what a wide part stands on, four contacts instead of sixteen."""
    for x in (-offset, offset):
        for y in (-offset, offset):
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                pos=[x, y, radius],
                size=[radius, 0, 0],
                contype=PART,
                conaffinity=FLOOR | FIXTURE,
                friction=PART_FRICTION,
                solref=CONTACT_SOLREF,
                solimp=PART_SOLIMP,
                mass=0,
                rgba=DARK,
            )


def _ring() -> list[tuple[float, float]]:
    """Eight capsule axes that make a round spigot: it can be screwed in a square hole."""
    radius = LEG_SPIGOT_RADIUS - SPIGOT_EDGE
    return [(radius * math.cos(a), radius * math.sin(a)) for a in (k * math.pi / 4 for k in range(8))]
