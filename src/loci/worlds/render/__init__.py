"""A ray caster on mujoco-core: shapes, materials, pictures with exact depth and identity."""
