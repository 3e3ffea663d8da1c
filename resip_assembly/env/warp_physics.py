"""Physics of all worlds at once by MuJoCo Warp, in float32, in place of `mj_step` in native threads.

Optional: `pip install -e ".[warp]"`. The state stays in each world's `MjData`; a control step
copies it to the device and back. Resets, snapshots, read-out and images are those of native stepping.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

import copy
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from resip_assembly.env.scenes import SUBSTEPS

Backend = Literal["warp", "warp-cpu"]

STATE = ("qpos", "qvel", "qacc_warmstart")  # what a step changes
INPUTS = (*STATE, "ctrl", "mocap_pos", "mocap_quat")
CONTACTS, ROWS = 64, 256  # per world, the first on average: the experts meet at most 24 contacts in 77 rows


class WarpPhysics:
    """N worlds of one model on a CUDA device ("warp") or on the CPU ("warp-cpu", for tests: it is slow).

    Forces in `xfrc_applied` and `qfrc_applied` are not copied; nothing here uses them.

    Raises:
        ValueError: another backend, MuJoCo Warp is not installed, or there is no CUDA device.
    """

    def __init__(self, model: mujoco.MjModel, data: list[mujoco.MjData], backend: Backend) -> None:
        if backend not in ("warp", "warp-cpu"):
            raise ValueError(f"unknown threads={backend!r}; a number of native threads, 'warp' or 'warp-cpu'")
        self._warp, self._mjw = _modules(backend)
        self._device = self._warp.get_device("cpu" if backend == "warp-cpu" else "cuda")
        self._mujoco_data = data
        self._shared = {name: [getattr(d, name) for d in data] for name in INPUTS}  # memory of the MjData
        self._seconds = SUBSTEPS * model.opt.timestep
        model = copy.copy(model)
        # Warp never resets a bad world by itself, and refuses the flag that asks it not to
        model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        with self._warp.ScopedDevice(self._device):
            self._model = self._mjw.put_model(model)
            self._model.opt.deterministic = True  # contacts, rows and sums in a fixed order
            self._model.opt.warn_overflow = 0  # reported by `step`, not printed by the kernels
            self._data = self._mjw.make_data(model, nworld=len(data), nconmax=CONTACTS, njmax=ROWS)
        self._graph: Any = None
        self._compiled = False

    def step(self, worlds: NDArray[np.intp]) -> NDArray[np.bool_]:
        """One control step of `worlds`, (W,) indices: their `MjData` hold the state reached.

        (W,) true where that state is not to be trusted: non-finite, huge, or contacts did not fit.
        """
        if not len(worlds):
            return np.zeros(0, dtype=bool)
        n = len(self._mujoco_data)
        idle = np.setdiff1d(np.arange(n), worlds)
        with self._warp.ScopedDevice(self._device):
            for name, views in self._shared.items():
                rows = np.concatenate(views).reshape(n, *views[0].shape)
                rows[idle] = rows[worlds[0]]  # a world that stands still may hold anything
                getattr(self._data, name).assign(rows.astype(np.float32))
            self._data.overflow.zero_()
            self._simulate()
            reached = {name: getattr(self._data, name).numpy().astype(np.float64) for name in STATE}
            overflow = self._data.overflow.numpy()
        for i in worlds.tolist():
            for name, rows in reached.items():
                self._shared[name][i][:] = rows[i]
            self._mujoco_data[i].time += self._seconds
        state = np.concatenate([reached["qpos"], reached["qvel"]], axis=1)[worlds]
        return (overflow[worlds] != 0) | ~(np.abs(state) < mujoco.mjMAXVAL).all(-1)

    def _simulate(self) -> None:
        if not self._compiled:
            print("compiling MuJoCo Warp's kernels: minutes, once per machine and scene", flush=True)
        for _ in range(SUBSTEPS):
            if self._graph is None:
                self._mjw.step(self._model, self._data)
            else:
                self._warp.capture_launch(self._graph)
        if not self._compiled and self._device.is_cuda:  # from now on one launch per physics step
            with self._warp.ScopedCapture() as capture:
                self._mjw.step(self._model, self._data)
            self._graph = capture.graph
        self._compiled = True


def _modules(backend: Backend) -> tuple[Any, Any]:
    """The packages warp and mujoco_warp; ValueError if they or the CUDA device are missing."""
    try:
        import warp

        warp.config.quiet = True  # its banner, and a line per kernel
        import mujoco_warp
    except ImportError as error:
        raise ValueError(
            f"threads={backend!r} needs MuJoCo Warp, which cannot be imported ({error}); "
            'pip install -e ".[warp]" at the repository\'s root, or give a number of native threads'
        ) from error
    warp.init()
    if backend == "warp" and not warp.is_cuda_available():
        raise ValueError(
            "threads='warp' needs a CUDA device and this machine has none; give a number of native threads, "
            "or 'warp-cpu' to test MuJoCo Warp without one"
        )
    return warp, mujoco_warp
