"""Images without a screen: EGL, then OSMesa, then one sentence that says what to install."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from resip_assembly.env import opengl

HEIGHT, WIDTH = 240, 320  # stored size of the authors' images (sheet §2.10)


class NoRendering(RuntimeError):
    """This machine cannot render; everything but images works."""


def make_renderer(model: mujoco.MjModel, height: int = HEIGHT, width: int = WIDTH) -> mujoco.Renderer:
    """An off-screen renderer with the first backend that works (`MUJOCO_GL` names the only one to try);
    shadows and reflections, which cost six times the rest in software, are off."""
    problems = []
    for backend in opengl.wanted():
        try:
            with opengl.attempt(backend):
                renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # each backend fails in its own way: import, library, display
            problems.append(f"{backend}: {error}")
            continue
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        return renderer
    raise NoRendering(
        f"no OpenGL for images ({'; '.join(problems)}); install one: "
        "apt-get install libegl1 libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa"
    )


def render(
    renderer: mujoco.Renderer, model: mujoco.MjModel, data: mujoco.MjData, camera: str = "front"
) -> NDArray[np.uint8]:
    """(height, width, 3) image of one world by "front", "close" or, per arm, "arm0_wrist"."""
    mujoco.mj_camlight(model, data)  # the simulator computes no more kinematics than it reads
    renderer.update_scene(data, camera=camera)
    return renderer.render()
