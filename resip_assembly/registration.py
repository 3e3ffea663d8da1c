"""The environments' names. `import resip_assembly` registers them, without importing MuJoCo."""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {  # id -> task
    "OneLeg": "one_leg",
    "OneLegInsert": "one_leg_insert",
    "RoundTable": "round_table",
    "Lamp": "lamp",
    "MugRack": "mug_rack",
    "PegInHole": "peg_in_hole",
    "BimanualInsertion": "bimanual",
}


def register_envs() -> None:
    """Register ``resip_assembly/<id>-v0`` for every task; doing it twice does no harm."""
    for name, task in ENVIRONMENTS.items():
        env_id = f"resip_assembly/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id, entry_point="resip_assembly.env.single:AssemblyEnv", kwargs={"task": task}
            )
