"""One variant for every posterior, prior, likelihood, objective and way of finding q, on the bundled digits.

    python -m vae_jax.main --config=experiments/zoo.py:vamp

A minute or less each on two cores. They show how each is asked for and that it trains, not how well it can be tuned.
All but those of a likelihood see the same binary images, so their numbers of test may be laid side by side:

    python -m vae_jax.report runs/zoo*
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant

GREY = {"data.binarization": "none", "model.levels": 17}
SEVERAL = {"objective.num_samples": 8}

POSTERIORS = {
    "full_normal": {"model.posterior": "full_normal"},
    "low_rank": {"model.posterior": "low_rank", "model.rank": 3},
    "planar": {"model.posterior": "planar", "model.flow_layers": 8},
    "coupling": {"model.posterior": "coupling", "model.flow_width": 50, "model.flow_context": 20},
    "iaf": {"model.posterior": "iaf", "model.flow_layers": 2, "model.flow_width": 50},
    "two_layer": {
        **{"model.posterior": "two_layer", "model.prior": "two_layer"},
        **{"model.upper_dim": 4, "model.upper_hidden": (32,)},
    },
}
PRIORS = {
    "mixture": {"model.prior": "mixture", "model.components": 20},
    "vamp": {"model.prior": "vamp", "model.components": 50},
    "vamp_data": {"model.prior": "vamp", "model.components": 50, "model.vamp_inputs": "data"},
    "flow_prior": {"model.prior": "flow"},
    "conditional": {"model.prior": "conditional", "data.condition": "label", "model.upper_hidden": (32,)},
}
LIKELIHOODS = {
    "continuous_bernoulli": {"model.likelihood": "continuous_bernoulli", **GREY},
    "normal": {"model.likelihood": "normal", "model.sigma": 0.2, **GREY},
    "normal_learned": {"model.likelihood": "normal", "model.sigma_mode": "learned", **GREY},
    "normal_per_dimension": {"model.likelihood": "normal", "model.sigma_mode": "per_dimension", **GREY},
    "normal_optimal": {"model.likelihood": "normal", "model.sigma_mode": "optimal", **GREY},
    "categorical": {"model.likelihood": "categorical", **GREY},
    "logistic": {"model.likelihood": "logistic", **GREY},
    "logistic_mixture": {"model.likelihood": "logistic_mixture", "model.mixture_size": 3, **GREY},
    "beta_binomial": {"model.likelihood": "beta_binomial", **GREY},
}
OBJECTIVES = {
    "beta": {"objective.name": "beta", "objective.beta": 0.5, "objective.schedule": "linear"},
    "capacity": {"objective.name": "capacity", "objective.capacity": 10.0, "objective.beta": 10.0},
    "free_bits": {"objective.name": "free_bits", "objective.free": 0.5},
    "beta_tc": {"objective.name": "beta_tc", "objective.schedule": "cyclical", "objective.cycles": 2},
    "mmd": {"objective.name": "mmd", "objective.beta": 0.0, "objective.mmd": 20.0},
    "iwae": {"objective.name": "iwae", **SEVERAL},
    "stl": {"objective.name": "stl"},
    "dreg": {"objective.name": "dreg", **SEVERAL},
    "miwae": {"objective.name": "miwae", "objective.groups": 2, **SEVERAL},
    "piwae": {"objective.name": "piwae", "objective.groups": 2, **SEVERAL},
    "ciwae": {"objective.name": "ciwae", "objective.alpha": 0.05, **SEVERAL},
    "vr": {"objective.name": "vr", "objective.alpha": 0.3, **SEVERAL},
    "tvo": {"objective.name": "tvo", "objective.partitions": 4, "objective.first": 0.05, **SEVERAL},
    "autoencoder": {"objective.name": "autoencoder", "model.posterior": "dirac", "objective.code": 0.01},
}
INFERENCES = {
    "constant": {"inference.kind": "constant"},
    "per_datapoint": {"inference.kind": "per_datapoint", "inference.start": "prior", "inference.inner_steps": 2},
    "semi_amortized": {
        "inference.kind": "semi_amortized",
        "inference.ascent": "momentum",
        "inference.momentum": 0.3,
        "inference.clip_norm": 1.0,
    },
    "semi_amortized_followed": {"inference.kind": "semi_amortized", "inference.stop_gradient": False},
    "aggressive": {"inference.encoder_steps": 3, "inference.encoder_epochs": 10},
    "denoising": {"inference.input_noise": 0.1, "inference.input_dropout": 0.1},
}
VARIANTS = {"": {}, **POSTERIORS, **PRIORS, **LIKELIHOODS, **OBJECTIVES, **INFERENCES}


def get_config(variant=""):
    changes = by_variant(variant, VARIANTS)
    config = default()
    config.data.name, config.data.binarization = "digits", "threshold"
    config.model.latent_dim, config.model.hidden = 8, (64,)
    config.train.batch_size, config.train.epochs = 100, 40
    config.optimizer.learning_rate, config.optimizer.ema = 3e-3, 0.99
    config.update_from_flattened_dict(changes)
    return config
