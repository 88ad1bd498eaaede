"""The whole configuration: all tables of keys put together, and the combinations that are refused.

An experiment file starts from `default()` and changes what differs. What cannot go together is said by what families
and objectives declare of themselves, not by their names, so it holds for those that an experiment file adds.
"""

import re
from typing import Any, NamedTuple

import ml_collections

from vae_jax import config as configs
from vae_jax.config import lookup
from vae_jax.errors import ConfigError
from vae_jax.models import inference
from vae_jax.models.families import LIKELIHOODS, POSTERIORS, PRIORS
from vae_jax.models.model import families_of, model_keys
from vae_jax.models.networks import NETWORKS
from vae_jax.objectives.loss import OBJECTIVES, objective_keys
from vae_jax.runs.load import read_config
from vae_jax.training import optimizer


def keys():
    """{dotted key: Key} of everything there is, in the order of the reference; families may be added at any time."""
    return configs.KEYS | model_keys() | inference.KEYS | objective_keys() | optimizer.KEYS


def default() -> Any:
    """A configuration with every key at its default."""
    return configs.assemble(keys())


def get_config(variant=""):
    """This file is an experiment too: overrides of a mode that reads a run's own configuration need no other."""
    return default()


def validate(config: Any) -> Any:
    """The configuration, frozen. Raises ConfigError at the first key or combination of keys that is not allowed."""
    configs.check(config, keys())
    for refusal in combinations(config):
        if refusal.holds:
            first, second = (f"{key} = {lookup(config, key)}" for key in refusal.keys)
            raise ConfigError(f"config.{first} cannot go with {second}: {refusal.why}")
    for broken, message in numbers(config):
        if broken:
            raise ConfigError(message)
    return ml_collections.FrozenConfigDict(config)


CHOICES = {  # key that names a member of a family -> the family
    "model.encoder": NETWORKS,
    "model.decoder": NETWORKS,
    "model.posterior": POSTERIORS,
    "model.prior": PRIORS,
    "model.likelihood": LIKELIHOODS,
    "inference.kind": inference.INFERENCES,
    "objective.name": OBJECTIVES,
}


def without_unread(values):
    """{dotted key: value}, None for keys that only families read which this configuration did not choose."""
    declared, read = set(), set()
    for key, family in CHOICES.items():
        group, chosen = key.partition(".")[0], values.get(key)
        declared |= set(configs.keys_of(group, family))
        # a member that an experiment file added is not known here: it may read every key of the family
        read |= set(configs.keys_of(group, {chosen: family[chosen]} if chosen in family else family))
    return values | dict.fromkeys((declared - read) & values.keys())


def changed(workdir, overrides):
    """The configuration of a trained run with `overrides` {key: value} of keys that a resumed run may change."""
    for key in overrides:
        if not configs.in_groups(key, configs.CHANGEABLE):
            raise ConfigError(f"config.{key} is part of what {workdir} was trained with: leave it out")
    config = ml_collections.ConfigDict(read_config(workdir))
    config.update_from_flattened_dict(overrides)
    return validate(config)


class Refusal(NamedTuple):
    """Two keys whose values cannot go together."""

    holds: bool  # whether this configuration has such values
    keys: tuple
    why: str  # and what to use instead


def combinations(config):
    """Every Refusal there is; docs/families.md lists them."""
    model, find, objective = config.model, config.inference, OBJECTIVES[config.objective.name]
    (q, p), dim = families_of(model), model.latent_dim
    table, redrawn = inference.INFERENCES[find.kind].has_table, config.data.binarization == "dynamic"
    blind = table or not inference.INFERENCES[find.kind].sees_x
    density = not LIKELIHOODS[model.likelihood](model, (1,)).levels  # (1,): what it is says no more of the data
    not_elbo, scheduled = config.objective.name != "elbo", config.objective.schedule != "constant"
    rules = (
        # how q is found
        (table and redrawn, KIND, "data.binarization", "one q is for one x: use --config.data.binarization=fixed"),
        (blind and p.needs_encoder, KIND, PRIOR, "there is no encoder for its pseudo-inputs: use mixture or flow"),
        (blind and find.input_noise, KIND, NOISE, "there is no encoder to be shown noise: leave it 0"),
        (blind and find.input_dropout, KIND, DROPOUT, "there is no encoder to be shown less: leave it 0"),
        # families
        (density and redrawn, LIKELIHOOD, "data.binarization", "a density of coin flips: leave the images grey, none"),
        (objective.bound and not q.has_density, Q, NAME, "a point mass has no bound: use objective.name=autoencoder"),
        (q.has_density and not objective.bound, Q, NAME, "its code has no noise: use --config.model.posterior=dirac"),
        (not q.has_density and not p.standard_normal, Q, PRIOR, "without noise there is no prior: leave it"),
        (q.layered and not p.layered, Q, PRIOR, "z has two layers in both: use --config.model.prior=two_layer"),
        (p.layered and not q.layered, PRIOR, Q, "z has two layers in both: use --config.model.posterior=two_layer"),
        (0 < dim < q.least_dim, Q, DIM, "one part of z moves the other: use iaf, or latent_dim >= 2"),
        (0 < dim < p.least_dim, PRIOR, DIM, "one part of z moves the other: use mixture, or latent_dim >= 2"),
        # without z, p(x|c) is the decoder of the condition
        (not dim and not q.factorizes, DIM, Q, "there is no z to have a posterior: leave normal"),
        (not dim and not p.standard_normal, DIM, PRIOR, "there is no z to have a prior: leave standard_normal"),
        (not dim and not_elbo, DIM, NAME, "every bound is the log-likelihood: use --config.objective.name=elbo"),
        (not dim and find.kind != "amortized", DIM, KIND, "there is no q to be found: leave amortized"),
        (not dim and find.input_noise, DIM, NOISE, "there is no encoder to be shown noise: leave it 0"),
        (not dim and find.input_dropout, DIM, DROPOUT, "there is no encoder to be shown less: leave it 0"),
        # objectives
        (objective.density and not q.density_anywhere, Q, NAME, "q is known at its own draws only: use coupling"),
        (objective.factorizes and not q.factorizes, NAME, Q, "q must factorize: use --config.model.posterior=normal"),
        (objective.factorizes and not p.standard_normal, NAME, PRIOR, "p must factorize: use standard_normal"),
        (objective.one_prior and (p.layered or p.conditional), NAME, PRIOR, "all z need one prior: use vamp, say"),
        (objective.one_prior and not p.reparameterized, NAME, PRIOR, "its draws leave weights no gradient: use vamp"),
        (scheduled and not objective.scheduled, NAME, "objective.schedule", "it has no weight to move: use beta, say"),
    )
    return [Refusal(bool(holds), tuple(keys), why) for holds, *keys, why in rules]


KIND, NAME, Q, PRIOR, DIM = "inference.kind", "objective.name", "model.posterior", "model.prior", "model.latent_dim"
LIKELIHOOD = "model.likelihood"
NOISE, DROPOUT = "inference.input_noise", "inference.input_dropout"


def numbers(config):
    """(whether it is so, what to say of it) of keys that must fit each other as numbers, or that need a path."""
    streams, batch, samples = config.data.streams, config.train.batch_size, config.objective.num_samples
    name, groups, least = (
        config.objective.name,
        config.objective.groups,
        OBJECTIVES[config.objective.name].least_samples,
    )
    grouped, find = "groups" in OBJECTIVES[name].options, config.inference
    ppca = config.data.name == "ppca" and config.data.binarization == "none" and config.model.likelihood == "bernoulli"
    encoder = inference.INFERENCES[find.kind].has_table and find.start == "encoder"
    said = f"config.objective.num_samples = {samples}"
    return (
        (
            streams and batch % streams,
            f"config.data.streams = {streams} does not divide config.train.batch_size = {batch}",
        ),
        (grouped and samples % groups, f"config.objective.groups = {groups} does not divide {said}"),
        (
            samples < least,
            f"config.objective.name = {name} needs config.objective.num_samples >= {least}, not {samples}",
        ),
        (
            config.data.name == "npz" and not config.data.path,
            "config.data.path is empty: it names the .npz of data.name = npz",
        ),
        (ppca, "config.model.likelihood = bernoulli needs data in [0, 1]: use normal for data.name = ppca"),
        (
            encoder and not find.encoder_run,
            "config.inference.start = encoder needs config.inference.encoder_run = RUN, amortized",
        ),
    )


def reference():
    """docs/configuration.md: every key with its default, its meaning and what it may be."""
    cells = [(f"`{name}`", spelled(key.default), described(key).replace("|", "\\|")) for name, key in keys().items()]
    rows = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([TITLE, "| key | default | meaning |", "| --- | --- | --- |", *rows])


def spelled(value):
    """A value as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def described(key):
    """A key's meaning, with the names that it may have where the meaning does not give them all."""
    names = [] if isinstance(key.check.expected, str) else [*key.check.expected]
    listed = all(re.search(rf"\b{name}\b", f"{key.meaning} {key.default}") for name in names)
    return key.meaning if listed else f"{key.meaning}; one of {', '.join(names)}"


TITLE = """# Configuration

Every key, as `python -m vae_jax.main --help` lists it; any of them is a flag, `--config.KEY=VALUE`. This page is made
by `python -m vae_jax.commands.configuration > docs/configuration.md`.
"""

if __name__ == "__main__":
    print(reference())
