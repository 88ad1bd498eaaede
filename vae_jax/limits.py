"""What a key of the configuration may be, as tables that config.validate reads: dotted key -> names, or least value.

An experiment file that brings a family of its own adds its name to ALLOWED; see docs/families.md.
"""

# A short list of keys that a resumed run may change: none of them touches a parameter.
CHANGEABLE = frozenset(
    {"figures", "gaps", "estimators", "train.eval_every", "train.checkpoint_every"}
    | {"eval.elbo_samples", "eval.num_samples", "eval.chunk_rows", "eval.curve_examples"}
    | {"eval.max_examples", "eval.train_examples", "fit", "data.manual_dir", "data.data_dir", "data.placement"}
)

ALLOWED = {
    "data.binarization": ("dynamic", "fixed", "threshold", "none"),
    "data.placement": ("auto", "device", "host"),
    "data.condition": ("none", "label", "upper"),
    "model.encoder": ("linear", "mlp", "conv", "resnet"),
    "model.decoder": ("linear", "mlp", "conv", "resnet"),
    "model.activation": ("tanh", "relu", "elu", "gelu", "softplus", "swish"),
    "model.posterior": ("normal", "full_normal", "low_rank", "planar", "coupling", "iaf", "two_layer", "dirac"),
    "model.prior": ("standard_normal", "mixture", "vamp", "flow", "two_layer", "conditional"),
    "model.likelihood": (
        *("bernoulli", "continuous_bernoulli", "normal"),
        *("categorical", "logistic", "logistic_mixture", "beta_binomial"),
    ),
    "model.sigma_mode": ("fixed", "learned", "per_dimension", "optimal"),
    "model.vamp_inputs": ("learned", "data"),
    "inference.kind": ("amortized", "per_datapoint", "semi_amortized"),
    "inference.start": ("zeros", "prior", "encoder"),
    "objective.name": (
        *("elbo", "beta", "capacity", "free_bits", "beta_tc", "mmd", "autoencoder"),
        *("iwae", "stl", "dreg", "miwae", "piwae", "ciwae", "vr", "tvo"),
    ),
    "objective.schedule": ("constant", "linear", "cyclical"),
    "objective.kl": ("auto", "monte_carlo"),
    "optimizer.name": ("adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "lion", "muon", "sgd"),
    "optimizer.schedule": ("constant", "cosine"),
    "train.precision": ("float32", "bfloat16"),
    "train.select": ("last", "best"),
    "gaps.ais.schedule": ("linear", "sigmoidal"),
}

FITTING = {"learning_rate": 0, "num_samples": 1, "max_steps": 1, "window": 1, "patience": 1}

AT_LEAST = {
    "data.num_train": 0,
    "data.streams": 0,
    "model.latent_dim": 0,
    "objective.num_samples": 1,
    **dict.fromkeys(("objective.beta", "objective.reconstruction", "objective.capacity", "objective.free"), 0),
    **dict.fromkeys(("objective.mmd", "objective.code", "objective.alpha"), 0),
    **dict.fromkeys(("objective.schedule_epochs", "objective.cycles", "objective.groups", "objective.partitions"), 1),
    **dict.fromkeys(("model.rank", "model.flow_layers", "model.flow_width", "model.components"), 1),
    **dict.fromkeys(("model.upper_dim", "model.mixture_size"), 1),
    **dict.fromkeys(("model.flow_context", "model.between"), 0),
    "model.levels": 2,
    "inference.input_noise": 0,
    "inference.learning_rate": 0,
    "inference.inner_steps": 1,
    "inference.steps": 0,
    "inference.step_size": 0,
    "inference.clip_norm": 0,
    "fit.learning_rate": 0,
    "fit.num_samples": 1,
    "fit.max_steps": 1,
    "fit.window": 1,
    "fit.patience": 1,
    "optimizer.learning_rate": 0,
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "train.batch_size": 1,
    "train.epochs": 1,
    "train.log_every": 0,
    "train.eval_every": 1,
    "train.checkpoint_every": 1,
    "eval.elbo_samples": 1,
    "eval.num_samples": 1,
    "eval.max_examples": 0,
    "eval.train_examples": 0,
    "eval.curve_examples": 0,
    "eval.chunk_rows": 1,
    "gaps.num_examples": 1,
    "gaps.elbo_samples": 1,
    "gaps.num_samples": 1,
    "gaps.chunk_rows": 1,
    **{f"gaps.{group}.{key}": least for group in ("fit", "flow") for key, least in FITTING.items()},
    "gaps.flow.num_examples": 0,
    "gaps.flow.layers": 1,
    "gaps.flow.width": 1,
    "gaps.ais.num_examples": 0,
    "gaps.ais.num_simulated": 0,
    "gaps.ais.num_chains": 1,
    "gaps.ais.num_temperatures": 1,
    "gaps.ais.num_leapfrog": 1,
    "gaps.ais.pilot_chains": 1,
    "gaps.ais.pilot_temperatures": 1,
    "estimators.num_draws": 20,
    "estimators.num_examples": 1,
    "figures.count": 1,
}

FRACTIONS = (  # in [0, 1)
    *("optimizer.b1", "optimizer.b2", "optimizer.momentum", "optimizer.ema"),
    *("inference.momentum", "inference.input_dropout"),
)
