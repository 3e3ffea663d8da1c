"""MuJoCo without its OpenGL, which is loaded when the first image is asked for.

`MUJOCO_GL=osmesa` or `egl` makes `import mujoco` itself load that library and fail where it is missing,
though only images need it. So MuJoCo is imported here with `MUJOCO_GL=disable`, and the variable put back;
the package `resip_assembly.env` imports this module before all others.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

BACKENDS = ("egl", "osmesa")  # tried in this order
ON_SCREEN = ("glfw", "cgl")  # for those who ask for them

if (asked := os.environ.get("MUJOCO_GL")) and "mujoco" not in sys.modules:
    os.environ["MUJOCO_GL"] = "disable"
    try:
        import mujoco  # noqa: F401
    finally:
        os.environ["MUJOCO_GL"] = asked


def wanted() -> tuple[str, ...]:
    """The backends to try: the one that `MUJOCO_GL` names, or all."""
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    return (chosen,) if chosen else BACKENDS


@contextlib.contextmanager
def attempt(backend: str) -> Iterator[None]:
    """MuJoCo's renderers use `backend`, inside and afterwards. If anything raises, PyOpenGL forgets the
    platform that it chose, so that another backend can be tried in this process.

    ValueError for the name of no backend.
    """
    from mujoco.rendering.classic import gl_context

    if backend not in (known := BACKENDS + ON_SCREEN):
        raise ValueError(f"MUJOCO_GL={backend!r} is no backend; there are {', '.join(known)}")
    platform, loaded = os.environ.get("PYOPENGL_PLATFORM"), set(sys.modules)
    try:
        gl_context.GLContext = importlib.import_module(f"mujoco.{backend}").GLContext
        yield
    except Exception:
        for name in set(sys.modules) - loaded:
            if name.split(".")[0] == "OpenGL" or name.startswith(f"mujoco.{backend}"):
                del sys.modules[name]
        if platform is None:
            os.environ.pop("PYOPENGL_PLATFORM", None)
        raise
