"""Training: a setup is built from a config, a pure step and the programs that repeat it, and the loop of a run."""

from vae_jax.training.many_runs import Member, Options, train_members
from vae_jax.training.setup import Setup, make_setup, reopen
from vae_jax.training.step import State, Table, TableUpdates, evaluation_params, init_state, make_train_step
from vae_jax.training.train import Run, fit

__all__ = [
    "Member",
    "Options",
    "Run",
    "Setup",
    "State",
    "Table",
    "TableUpdates",
    "evaluation_params",
    "fit",
    "init_state",
    "make_setup",
    "make_train_step",
    "reopen",
    "train_members",
]
