"""Several devices and several processes: `devices` knows meshes and blocks, `processes` who writes and who waits."""

from vae_jax.parallel.devices import ONE_DEVICE, Spread, device_program, make_mesh, put_split, spread
from vae_jax.parallel.processes import connect, launch, on_first

__all__ = ["ONE_DEVICE", "Spread", "connect", "device_program", "launch", "make_mesh", "on_first", "put_split"]
__all__ += ["spread"]
