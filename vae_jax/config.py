"""Configurations: the defaults, and the one place that says which values are allowed.

An experiment file starts from `default()` and changes what differs. Nothing is ever read with a fallback: a key exists
here or it does not exist, and `validate` names the field, the value and what is allowed.
"""

import difflib
import runpy

import ml_collections
from ml_collections import ConfigDict

from vae_jax.errors import ConfigError


def default():
    """Every key there is, with its default and meaning; the comments here are what --help prints."""
    config = ConfigDict()
    config.seed = 0  # initialization, order of examples and training noise
    config.init_from = ""  # RUN or RUN@STEP: the parameters of another run to start from; set by --init_from

    groups = (data_keys, model_keys, inference_keys, training_keys)
    for add_keys in (*groups, evaluation_keys, gaps_keys, estimator_keys, figure_keys):
        add_keys(config)
    return config


def data_keys(config):
    """The data."""
    config.data = ConfigDict()
    config.data.name = "digits"  # digits, mnist, fashion_mnist, kmnist, ppca, npz, or any TFDS name
    config.data.manual_dir = ""  # a directory that holds the official files
    config.data.data_dir = ""  # where TFDS keeps its data; empty: ~/tensorflow_datasets
    config.data.path = ""  # the .npz file of data.name = npz, or a directory of .npy files, which are memory-mapped
    config.data.placement = "auto"  # of training data: device, host (fed in windows; TFDS's by records), auto: by size
    config.data.num_train = 0  # keep the first so many training examples; 0: all
    config.data.binarization = "dynamic"  # dynamic: drawn anew each step; fixed: once per example; threshold; none
    config.data.binarization_seed = 0  # of 'fixed'
    config.data.streams = 0  # example i is in stream i mod streams; 0: the largest power of two <= 8 dividing the batch

    config.data.condition = "none"  # given to encoder, decoder and prior: label; upper: x is the lower half given it


def model_keys(config):
    """Families and networks."""
    config.model = ConfigDict()
    config.model.latent_dim = 50  # Z, numbers in z; of a two-layer model, in z1; 0: no z, the decoder of a condition
    config.model.encoder = "mlp"  # network from x to the parameters of q(z|x)
    config.model.decoder = "mlp"  # network from z to p(x|z)
    config.model.hidden = (200, 200)  # encoder widths from x to z; the decoder mirrors them
    config.model.channels = (32, 64)  # conv, resnet: the encoder's before the hidden layers; the decoder mirrors them
    config.model.between = 0  # conv and resnet: further convolutions between two changes of an image's size
    config.model.activation = "tanh"  # between the layers
    config.model.posterior = "normal"  # family of q(z|x)
    config.model.rank = 2  # of the low_rank posterior, beside its diagonal
    config.model.flow_layers = 4  # of a flow, posterior or prior
    config.model.flow_width = 100  # of the hidden layer in each coupling or autoregressive layer
    config.model.flow_context = 50  # coupling and iaf posteriors: numbers that the encoder tells the flow of each x
    config.model.prior = "standard_normal"  # p(z)
    config.model.components = 10  # of a mixture prior, or pseudo-inputs of a vamp prior
    config.model.vamp_inputs = "learned"  # vamp prior: its pseudo-inputs; data: they stay the training images drawn
    config.model.upper_dim = 50  # two_layer: numbers in z2
    config.model.upper_hidden = (100, 100)  # two_layer: widths from z1 to z2; mirrored from z2, or a condition, to z1
    config.model.likelihood = "bernoulli"  # family of p(x|z)
    config.model.sigma = 1.0  # standard deviation of the normal likelihood, or where it begins
    config.model.sigma_mode = "fixed"  # learned: one number; per_dimension; optimal: the batches' best, in closed form
    config.model.levels = 256  # of an image's values, for categorical, logistic, logistic_mixture and beta_binomial
    config.model.mixture_size = 5  # logistics for each pixel of logistic_mixture


def inference_keys(config):
    """How q is found, and what is ascended."""
    config.inference = ConfigDict()
    config.inference.kind = "amortized"  # or per_datapoint, semi_amortized: how q(z|x) is found
    config.inference.learning_rate = 1e-2  # per_datapoint: Adam on the entries of the table
    config.inference.inner_steps = 1  # per_datapoint: updates of the batch's entries for each update of the decoder
    config.inference.start = "zeros"  # per_datapoint: zeros; prior (means drawn from it); encoder (of encoder_run)
    config.inference.encoder_run = (
        ""  # per_datapoint: the directory of a trained run whose encoder gives the first entries
    )
    config.inference.steps = 5  # semi_amortized: refinements of the encoder's q
    config.inference.step_size = 1e-2  # semi_amortized: of a refinement, on the gradient of one example's bound
    config.inference.momentum = 0.5  # semi_amortized
    config.inference.clip_norm = 5.0  # semi_amortized: of one example's gradient; 0: none
    config.inference.stop_gradient = False  # semi_amortized: the outer gradient takes the refinement for a constant
    config.inference.input_noise = 0.0  # denoising: standard deviation added to what the encoder sees in training
    config.inference.input_dropout = 0.0  # denoising: share of x's elements that the encoder sees as 0 in training

    config.fit = ConfigDict()  # q for held-out examples, the decoder frozen
    config.fit.learning_rate = 5e-2  # Adam on the parameters of q
    config.fit.num_samples = 8  # draws of z for each example and step
    config.fit.max_steps = 600  # at most so many
    config.fit.window = 50  # steps whose iterates are averaged
    config.fit.patience = 4  # windows without a better one after which an example stops

    config.objective = ConfigDict()
    config.objective.name = "elbo"  # what training ascends
    config.objective.num_samples = 1  # K draws of z for each example
    config.objective.kl = "auto"  # closed form where there is one; or monte_carlo
    config.objective.beta = 1.0  # weight of the KL in beta, capacity and mmd, of the total correlation in beta_tc
    config.objective.reconstruction = 1.0  # beta: weight of the reconstruction; 0 leaves the KL alone
    config.objective.schedule = "constant"  # of beta, or of capacity; linear and cyclical rise from 0
    config.objective.schedule_epochs = 10  # linear: until the full weight
    config.objective.cycles = 4  # cyclical: rises in a run, each over half a cycle
    config.objective.capacity = 0.0  # capacity: nats of KL that are free of charge, and asked for
    config.objective.free = 0.0  # free_bits: nats of KL of each dimension that are free of charge
    config.objective.mmd = 10.0  # mmd: weight of the squared distance between aggregate posterior and prior
    config.objective.code = 0.0  # autoencoder: weight of |z|^2 / 2
    config.objective.alpha = 0.5  # vr: its order; ciwae: the share of the ELBO
    config.objective.groups = 1  # miwae, piwae: groups of the K draws
    config.objective.partitions = 5  # tvo: points of the Riemann sum
    config.objective.first = 0.03  # tvo: the first of them after 0


def training_keys(config):
    """How long, and by which optimizer."""
    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # of optax
    config.optimizer.learning_rate = 1e-3  # at its highest
    config.optimizer.schedule = "constant"  # or cosine, down to final_fraction of the learning rate
    config.optimizer.warmup_steps = 0  # linear rise of the learning rate from 0
    config.optimizer.final_fraction = 0.01  # cosine: the share of the learning rate left at the end
    config.optimizer.b1 = 0.9  # of adam and its kin, and lion
    config.optimizer.b2 = 0.999  # of adam and its kin, lion, and rmsprop (its decay)
    config.optimizer.momentum = 0.9  # of sgd, rmsprop and muon
    config.optimizer.weight_decay = 0.0  # of adamw, lion and muon
    config.optimizer.clip_norm = 0.0  # global norm of the gradient; 0: none
    config.optimizer.ema = 0.0  # decay of an average of the parameters, used for evaluation; 0: none

    config.train = ConfigDict()
    config.train.batch_size = 128  # B, examples in a step
    config.train.epochs = 100  # passes over the training set
    config.train.precision = (
        "float32"  # of the networks while training: float32 or bfloat16; measured in float32 always
    )
    config.train.log_every = 0  # steps in one compiled call and one log record; 0: one epoch
    config.train.eval_every = 10  # epochs between evaluations on valid
    config.train.checkpoint_every = 10  # epochs between checkpoints
    config.train.select = "last"  # or best: the checkpoint with the best ELBO on valid


def evaluation_keys(config):
    """What is measured of a run."""
    config.eval = ConfigDict()
    config.eval.seed = 0  # test binarization and every draw of an evaluation
    config.eval.elbo_samples = 10  # draws of z for each example in an ELBO
    config.eval.num_samples = 1000  # K of the importance-sampled log p(x) at the end
    config.eval.max_examples = 0  # of test, at the end; 0: all
    config.eval.train_examples = 1000  # of train, at the end, measured like test; 0: none
    config.eval.curve_examples = 100  # of test, for log p(x) against the number of draws in --mode=evaluate; 0: none
    config.eval.chunk_images = 2500  # decoded images in flight: bounds memory, changes no number


def gaps_keys(config):
    """What --mode=gaps measures."""
    config.gaps = ConfigDict()  # --mode=gaps: what the posterior loses on held-out examples, and why
    config.gaps.num_examples = 1000  # of test; AIS and the flow take the first of these
    config.gaps.elbo_samples = 200  # of each L
    config.gaps.num_samples = 5000  # K of IWAE
    config.gaps.chunk_images = 2500  # decoded images in flight: bounds memory, changes no number
    config.gaps.fit = ConfigDict()
    config.gaps.fit.learning_rate = 5e-2  # q*: Adam on q of each example, down to 0 by a cosine
    config.gaps.fit.num_samples = 8  # draws of z for each example and step
    config.gaps.fit.max_steps = 600  # from each of the two starts
    config.gaps.fit.window = 50  # steps whose iterates are averaged
    config.gaps.fit.patience = 12  # windows without a better one after which an example stops
    config.gaps.flow = ConfigDict()
    config.gaps.flow.num_examples = 100  # with a coupling flow of their own; 0: none
    config.gaps.flow.layers = 4  # of the flow
    config.gaps.flow.width = 50  # of the hidden layer in each
    config.gaps.flow.learning_rate = 5e-3  # Adam on the flow's weights
    config.gaps.flow.num_samples = 32  # draws of z for each example and step
    config.gaps.flow.max_steps = 1500  # at most so many
    config.gaps.flow.window = 50  # steps whose iterates are averaged
    config.gaps.flow.patience = 30  # windows without a better one after which an example stops
    config.gaps.ais = ConfigDict()
    config.gaps.ais.num_examples = 200  # that AIS bounds; 0: none
    config.gaps.ais.num_simulated = 100  # BDMC: examples drawn from the model, bounded from both sides; 0: none
    config.gaps.ais.starts = ("q", "prior")  # paths from q*, and from the prior: lower bounds that may fail differently
    config.gaps.ais.num_chains = 16  # for each example
    config.gaps.ais.num_temperatures = 1000  # of a chain's path
    config.gaps.ais.num_leapfrog = 5  # steps, each a decoder gradient, of a Hamiltonian transition
    config.gaps.ais.schedule = "linear"  # or sigmoidal: how the temperatures are spaced
    config.gaps.ais.pilot_chains = 4  # that tune the step sizes and are not weighted
    config.gaps.ais.pilot_temperatures = 200  # of the path of those chains


def estimator_keys(config):
    """What --mode=estimators measures."""
    config.estimators = ConfigDict()  # --mode=estimators: signal-to-noise ratios of gradient estimators
    config.estimators.names = ("elbo", "iwae", "stl", "dreg")  # the estimators; of planar and iaf elbo and iwae alone
    config.estimators.num_samples = (1, 4, 16, 64)  # each K, draws of z for each example
    config.estimators.num_draws = 1000  # gradients of each estimator at each K
    config.estimators.num_examples = 16  # of train, one fixed batch


def figure_keys(config):
    """What is drawn."""
    config.figures = ConfigDict()
    config.figures.count = 64  # images in a grid


def validate(config):
    """Raises ConfigError at the first field whose value is not allowed; returns the config frozen."""
    require_keys(config)
    for field, allowed in ALLOWED.items():
        require(field, lookup(config, field), lambda v, a=allowed: v in a, "one of " + ", ".join(allowed))
    for field, least in AT_LEAST.items():
        require(field, lookup(config, field), lambda v, m=least: m <= v < float("inf"), f"a number >= {least}")
    for field in FRACTIONS:
        require(field, lookup(config, field), lambda v: 0 <= v < 1, "a number in [0, 1)")
    require("optimizer.final_fraction", config.optimizer.final_fraction, lambda v: 0 <= v <= 1, "a number in [0, 1]")
    require("model.sigma", config.model.sigma, lambda v: 0 < v < float("inf"), "a number > 0")
    widths = lambda v: all(isinstance(w, int) and w > 0 for w in v)
    for field in ("model.hidden", "model.channels", "model.upper_hidden"):
        require(field, lookup(config, field), widths, "widths of layers, each an integer > 0")
    require("objective.first", config.objective.first, lambda v: 0 < v < 1, "a number in (0, 1)")
    starts = lambda v: len(set(v)) == len(v) > 0 and set(v) <= {"q", "prior"}
    require("gaps.ais.starts", config.gaps.ais.starts, starts, "q, prior or both")
    require_estimators(config.estimators)
    for field in ("seed", "eval.seed", "data.binarization_seed"):
        require(field, lookup(config, field), lambda v: 0 <= v < 2**32, "an integer in [0, 2^32)")
    validate_pairs(config)
    return ml_collections.FrozenConfigDict(config)


def require_estimators(config):
    """Raises ConfigError unless names and numbers of draws are what --mode=estimators can measure."""
    names, different = ("elbo", "iwae", "stl", "dreg"), lambda v: len(set(v)) == len(v) > 0
    require("estimators.names", config.names, lambda v: different(v) and set(v) <= {*names}, "of " + ", ".join(names))
    counts = lambda v: different(v) and all(isinstance(k, int) and k > 0 for k in v)
    require("estimators.num_samples", config.num_samples, counts, "different integers > 0")


def require_keys(config):
    """The keys of `default()`, no more and no fewer, each with a value of its type."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config() returned {config!r:.40}: expected vae_jax.config.default() with changes")
    given, expected = flat(config), flat(default())
    for key in given:
        if key not in expected:
            raise ConfigError(unknown_key(key))
    for key, value in expected.items():
        if key not in given:
            raise ConfigError(f"config.{key} is missing: begin with config = vae_jax.config.default()")
        allowed = (int, float) if isinstance(value, float) else type(value)
        fits = isinstance(given[key], allowed) and (isinstance(value, bool) or not isinstance(given[key], bool))
        require(key, given[key], lambda _, fits=fits: fits, TYPE_NAMES[type(value)])


TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", tuple: "a list such as 200,100"}


def unknown_key(key):
    """One line for a key that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(key, flat(default()), 1)
    return f"config.{key} does not exist: " + (f"did you mean config.{near[0]}?" if near else "--help lists every key")


def flat(config, prefix=""):
    """{'model.latent_dim': 2} and so on, of a nested config or dict; an empty group stays, as {}."""
    items = {}
    for name, value in config.items():
        nested = isinstance(value, ConfigDict | dict) and len(value)
        items |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return items


def validate_pairs(config):
    """Raises ConfigError for a combination that cannot work: it names both keys, why, and what to use instead."""
    for one, other, why in IMPOSSIBLE:
        if holds(one, config) and holds(other, config):
            raise ConfigError(f"config.{shown(one, config)} cannot go with {shown(other, config)}: {why}")
    for broken, message in numbers(config):
        if broken:
            raise ConfigError(message)


def from_experiment(path, variant=""):
    """The configuration of another experiment file, for one that changes only what differs from it."""
    return runpy.run_path(str(path))["get_config"](variant)


def by_variant(variant, settings):
    """The setting of an experiment's variant, `experiments/NAME.py:variant`; '' is the experiment as shipped."""
    if variant not in settings:
        raise ConfigError(
            f"variant {variant!r} of --config: expected one of {', '.join(filter(None, settings)) or 'none'}"
        )
    return settings[variant]


def in_groups(key, groups):
    """Whether a dotted key, or a group it is in, is among `groups`."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def lookup(config, field):
    for name in field.split("."):
        config = config[name]
    return config


def require(field, value, test, expected):
    if not test(value):
        raise ConfigError(f"config.{field} = {value!r}: expected {expected}")


def num_streams(config):
    """S of the run: `data.streams`, or the largest power of two <= 8 that divides the batch."""
    return config.data.streams or max(s for s in (1, 2, 4, 8) if config.train.batch_size % s == 0)


# A short list of keys that a resumed run may change: none of them touches a parameter.
CHANGEABLE = frozenset(
    {"figures", "gaps", "estimators", "train.eval_every", "train.checkpoint_every"}
    | {"eval.elbo_samples", "eval.num_samples", "eval.chunk_images", "eval.curve_examples"}
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
    "eval.chunk_images": 1,
    "gaps.num_examples": 1,
    "gaps.elbo_samples": 1,
    "gaps.num_samples": 1,
    "gaps.chunk_images": 1,
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
