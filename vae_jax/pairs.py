"""Combinations of keys that cannot work, as a table: docs/families.md lists them, `config.validate` refuses them.

A clause is `key=value`, `key=this|that` or `key!=value`; two that hold together are refused with the reason given,
which says what to use instead. Whatever is not here works.
"""

UNWEIGHTED = "elbo|free_bits|autoencoder|iwae|stl|dreg|miwae|piwae|ciwae|vr|tvo"  # no beta and no capacity to schedule

IMPOSSIBLE = (
    # how q is found
    (
        "inference.kind=per_datapoint",
        "data.binarization=dynamic",
        "per_datapoint keeps one q for one fixed x, dynamic draws x anew at every step: use "
        "--config.data.binarization=fixed",
    ),
    (
        "inference.kind=per_datapoint",
        "model.prior=vamp",
        "there is no encoder for the pseudo-inputs: use mixture or flow",
    ),
    ("inference.kind=per_datapoint", "inference.input_noise!=0.0", "there is no encoder to be shown noise: leave it 0"),
    (
        "inference.kind=per_datapoint",
        "inference.input_dropout!=0.0",
        "there is no encoder to be shown less: leave it 0",
    ),
    # families
    (
        "model.posterior=dirac",
        "objective.name!=autoencoder",
        "a point mass has no density, and so no bound: use --config.objective.name=autoencoder",
    ),
    (
        "model.posterior!=dirac",
        "objective.name=autoencoder",
        "an autoencoder decodes a code without noise: use --config.model.posterior=dirac",
    ),
    ("model.posterior=dirac", "model.prior!=standard_normal", "an autoencoder has no prior: leave standard_normal"),
    (
        "model.posterior=two_layer",
        "model.prior!=two_layer",
        "z has two layers in both or in none: use --config.model.prior=two_layer",
    ),
    (
        "model.posterior!=two_layer",
        "model.prior=two_layer",
        "z has two layers in both or in none: use --config.model.posterior=two_layer",
    ),
    ("model.posterior=coupling", "model.latent_dim=1", "one part of z moves the other: use iaf or latent_dim >= 2"),
    ("model.prior=flow", "model.latent_dim=1", "one part of z moves the other: use mixture or latent_dim >= 2"),
    # without z, p(x|c) is the decoder of the condition
    ("model.latent_dim=0", "model.posterior!=normal", "there is no z to have a posterior: leave normal"),
    ("model.latent_dim=0", "model.prior!=standard_normal", "there is no z to have a prior: leave standard_normal"),
    (
        "model.latent_dim=0",
        "objective.name!=elbo",
        "without z every bound is the log-likelihood itself: use --config.objective.name=elbo",
    ),
    ("model.latent_dim=0", "inference.kind!=amortized", "there is no q to be found: leave amortized"),
    ("model.latent_dim=0", "inference.input_noise!=0.0", "there is no encoder to be shown noise: leave it 0"),
    ("model.latent_dim=0", "inference.input_dropout!=0.0", "there is no encoder to be shown less: leave it 0"),
    # objectives
    (
        "model.posterior=planar|iaf",
        "objective.name=stl|dreg|tvo",
        "the density of such a flow is known at its own draws only: use --config.model.posterior=coupling",
    ),
    (
        "model.posterior!=normal",
        "objective.name=beta_tc",
        "total correlation needs a q that factorizes: use --config.model.posterior=normal",
    ),
    (
        "model.prior!=standard_normal",
        "objective.name=beta_tc",
        "total correlation needs a p that factorizes: use --config.model.prior=standard_normal",
    ),
    (
        "model.prior=two_layer|conditional",
        "objective.name=mmd",
        "mmd compares all z with draws from one prior: use standard_normal, mixture, vamp or flow",
    ),
    (
        f"objective.name={UNWEIGHTED}",
        "objective.schedule!=constant",
        "there is no weight to schedule: use --config.objective.name=beta, capacity, beta_tc or mmd",
    ),
)


def split(clause):
    """(key, values, whether they are the ones excluded)."""
    key, _, values = clause.partition("=")
    return key.rstrip("!"), values.split("|"), key.endswith("!")


def value_of(key, config):
    for name in key.split("."):
        config = config[name]
    return config


def holds(clause, config):
    key, values, excluded = split(clause)
    return (str(value_of(key, config)) in values) != excluded


def shown(clause, config):
    """`key = value` as this config has it."""
    key, _, _ = split(clause)
    return f"{key} = {value_of(key, config)}"


def numbers(config):
    """(whether it is so, what to say of it) of keys that must fit each other as numbers, or that need a path."""
    streams, batch, samples = config.data.streams, config.train.batch_size, config.objective.num_samples
    name, groups = config.objective.name, config.objective.groups
    yield (
        streams and batch % streams,
        f"config.data.streams = {streams} does not divide config.train.batch_size = {batch}",
    )
    yield (
        name in ("miwae", "piwae") and samples % groups,
        f"config.objective.groups = {groups} does not divide config.objective.num_samples = {samples}",
    )
    yield (
        name == "tvo" and samples < 2,
        "config.objective.name = tvo needs config.objective.num_samples >= 2: its gradient is a covariance over them",
    )
    yield (
        config.data.name == "npz" and not config.data.path,
        "config.data.path is empty: --config.data.path=FILE.npz names the arrays of data.name = npz",
    )
    yield (
        config.data.binarization == "none" and config.model.likelihood == "bernoulli" and config.data.name == "ppca",
        "config.model.likelihood = bernoulli needs data in [0, 1]: use normal for data.name = ppca",
    )
    yield (
        config.inference.kind == "per_datapoint"
        and config.inference.start == "encoder"
        and not config.inference.encoder_run,
        "config.inference.start = encoder needs config.inference.encoder_run = RUN, an amortized run",
    )
