"""Training: a setup is built from a config, a pure step and the programs that repeat it, and the loop of a run."""

from vae_jax.training.many_runs import train_members
from vae_jax.training.setup import make_setup, reopen
from vae_jax.training.step import State, init_state, make_train_step
from vae_jax.training.train import fit

__all__ = ["State", "fit", "init_state", "make_setup", "make_train_step", "reopen", "train_members"]
