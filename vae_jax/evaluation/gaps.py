"""How much a posterior loses, and why: the gaps of Cremer, Li and Duvenaud (2018), "Inference suboptimality in VAEs".

    inference gap      log p(x) - L[q]     =  approximation gap + amortization gap
    approximation gap  log p(x) - L[q*]    =  KL(q* || p(z|x)),  q* the best member of the family for this very x
    amortization gap   L[q*] - L[q]           what the way of finding q leaves on the table

q* is found from two starts, the run's own q_params and those of an untrained table. Fresh noise judges which is best
for an example, those two or q itself, and other fresh noise measures it: choosing makes no number larger than it is.
q*_flow begins at q*, as the identity of a coupling flow, and is judged against it.

log p(x) is the best of several lower bounds, IWAE and AIS, by their averages over the same examples, as published: the
best for each example would be biased upwards. AIS from q* has little way to go and wins where the posterior has one
mode; AIS from the prior, as published, finds modes that q* has missed. Bounds from both sides on simulated data tell.

Everything is in nats per example; entries are means over examples with standard errors, and differences are paired.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.basic import Normal
from vae_jax.distributions.flows import CouplingFlow, init_coupling
from vae_jax.evaluation import ais
from vae_jax.evaluation.bounds import SAMPLES_AT_ONCE, elbo_terms, importance_log_px
from vae_jax.evaluation.examples import fit_from, in_chunks, summarize
from vae_jax.keys import Use, fold_each, fold_in_each
from vae_jax.models.model import sample_prior
from vae_jax.parallel.devices import ONE_DEVICE

# What an example's key is used for here; IWAE from q takes evaluate's own use, and so repeats the NLL of a run.
BOUNDS = ("iwae_q", "iwae_q_star", "ais_q", "ais_prior")  # on log p(x), from below
MOMENTS = 256  # draws whose mean and standard deviation begin a flow where q* is no Gaussian


def measure_gaps(model, params, examples, config, spread=ONE_DEVICE, progress=lambda title, done, total: None):
    """The gaps of a model over examples: ({name: {value, stderr, unit, num_examples}}, {name: array per example}).

    examples: 'image', 'key', 'q_params' and where there is one 'condition', each `[N, ...]`, as `with_q_params`
        makes them; the first `config.num_examples` count, and AIS, flow and BDMC take the first of those.
    config: config.gaps. The arrays of the second result are as long as the examples that they were measured on.
    """
    run = make_runner(config, spread, progress)
    examples = {name: examples[name] for name in ("image", "key", "q_params", "condition") if name in examples}
    examples = first(examples, config.num_examples)
    star, values = own_family(model, params, examples, config, run)
    values |= importance(model, params, examples, star, config, run)
    if config.flow.num_examples:
        values |= flow_family(model, params, first(star, config.flow.num_examples), config, run)
    if config.ais.num_examples:
        values |= annealed(model, params, first(star, config.ais.num_examples), config, run)
    if config.ais.num_simulated:
        values |= bidirectional(model, params, first(examples, config.ais.num_simulated), config, run)
    values, method = with_gaps(values)
    return summarize_all(values, method, config), values


def make_runner(config, spread, progress):
    """run(title, function, examples, images): in_chunks with at most `config.chunk_images` decoded images in flight."""

    def run(title, function, examples, images=1):
        total = len(examples["key"])
        done = lambda done: progress(title, done, total)
        return in_chunks(function, examples, max(1, config.chunk_images // images), spread, done)

    return run


def first(examples, count):
    return jax.tree.map(lambda array: array[:count], examples)


def with_key(chunk, use):
    """The chunk with keys for one use of them."""
    return {**chunk, "key": fold_each(chunk["key"], use)}


def elbo(title, use, model, params, examples, config, run):
    """L of each example's q_params `[N]`, on the noise that `use` names."""
    terms = lambda chunk: elbo_terms(model, params, with_key(chunk, use), config.elbo_samples)["elbo"]
    return run(title, terms, examples)


def best_of(title, model, params, candidates, config, run):
    """Of several versions of the examples the one with the better L for each, and its number `[N]`."""
    scores = np.stack([elbo(title, Use.GAPS_JUDGE, model, params, candidate, config, run) for candidate in candidates])
    best = scores.argmax(0)
    choose = lambda *q_params: np.stack(q_params)[best, np.arange(len(best))]
    q_params = jax.tree.map(choose, *(candidate["q_params"] for candidate in candidates))
    return {**candidates[0], "q_params": q_params}, best


def own_family(model, params, examples, config, run):
    """The examples with the q_params of q*, and L of q and q*."""
    start = run("starts", lambda chunk: model.start_q_params(fold_each(chunk["key"], Use.GAPS_START)), examples)
    candidates = [examples]
    for title, q_params, use in (
        ("q* from q", examples["q_params"], Use.GAPS_FIT_FROM_Q),
        ("q* from the start", start, Use.GAPS_FIT_FROM_START),
    ):
        fit = lambda chunk, use=use: fit_from(model, params, with_key(chunk, use), config.fit)
        q_params = run(title, fit, {**examples, "q_params": q_params}, config.fit.num_samples)
        candidates.append({**examples, "q_params": q_params})
    star, best = best_of("judging q*", model, params, candidates, config, run)
    values = {
        "elbo_q": elbo("L[q]", Use.GAPS_REPORT, model, params, examples, config, run),
        "elbo_q_star": elbo("L[q*]", Use.GAPS_REPORT, model, params, star, config, run),
        "q_star_start": best,
    }
    return star, values


def importance(model, params, examples, star, config, run):
    """log p(x) by importance sampling, from q and from q*: either is a lower bound."""
    at_once = min(SAMPLES_AT_ONCE, config.num_samples)
    estimate = lambda chunk: importance_log_px(model, params, chunk, config.num_samples, at_once)["log_px"]
    return {
        "iwae_q": run("IWAE from q", estimate, examples, at_once),
        "iwae_q_star": run(
            "IWAE from q*", lambda chunk: estimate(with_key(chunk, Use.GAPS_IWAE_Q_STAR)), star, at_once
        ),
    }


def flow_family(model, params, star, config, run):
    """L of q*_flow for examples that have the q_params of q*."""
    begin = lambda chunk: start_flow(model, params, with_key(chunk, Use.GAPS_FLOW_START), config.flow)
    star = {**star, "q_params": run("flow: start", begin, star)}
    model = model._replace(make_q=make_flow)
    fit = lambda chunk: fit_from(model, params, with_key(chunk, Use.GAPS_FLOW_FIT), config.flow)
    fitted = {**star, "q_params": run("flow q*", fit, star, config.flow.num_samples)}
    star, _ = best_of("judging flow q*", model, params, [star, fitted], config, run)
    return {"elbo_q_star_flow": elbo("L[q* flow]", Use.GAPS_REPORT, model, params, star, config, run)}


def make_flow(params, q_params):
    """A flow of each example's own: in place of a model's make_q."""
    return CouplingFlow(q_params["mean"], q_params["log_std"], q_params["mean"][..., :0], q_params["flow"])


@partial(jax.jit, static_argnums=(0, 3))
def start_flow(model, params, chunk, flow):
    """Rows at which a flow is q* itself, or where q* is no Gaussian, the Gaussian of its mean and variance."""
    q = model.make_q(params, chunk["q_params"])
    if isinstance(q, Normal):
        mean, log_std = q.mean, jnp.broadcast_to(q.log_std, q.mean.shape)
    else:
        z = q.sample(fold_in_each(chunk["key"], 1), (MOMENTS,))
        mean, log_std = z.mean(0), jnp.log(z.std(0))
    weights = partial(init_coupling, latent_dim=mean.shape[-1], layers=flow.layers, width=flow.width)
    return {"mean": mean, "log_std": log_std, "flow": jax.vmap(weights)(chunk["key"])}


def annealing(config):
    """How config.gaps.ais walks, as `ais` wants it."""
    names = ("num_chains", "num_temperatures", "num_leapfrog", "schedule", "pilot_chains", "pilot_temperatures")
    return ais.Annealing(*(config.ais[name] for name in names))


def annealed(model, params, star, config, run):
    """AIS for examples that have the q_params of q*, from each of the starts."""
    values = {}
    for start in config.ais.starts:
        function = lambda chunk, start=start: anneal(
            model, params, with_key(chunk, Use.GAPS_ANNEAL), annealing(config), start
        )
        found = run(f"AIS from {start}", function, star, config.ais.num_chains)
        values |= {f"ais_{start}": found.log_px, f"ais_{start}_acceptance": found.acceptance}
        values[f"ais_{start}_effective"] = found.effective_samples
    return values


def bidirectional(model, params, examples, config, run):
    """AIS and reverse AIS on data drawn from the model: bounds on its log p(x) from both sides."""
    chunk_of = lambda chunk: simulate(model, params, with_key(chunk, Use.GAPS_SIMULATE))
    simulated = {**examples, **run("simulating", chunk_of, examples)}
    if "q" in config.ais.starts:
        start = lambda chunk: {**chunk, "q_params": model.start_q_params(fold_each(chunk["key"], Use.GAPS_START))}
        fit = lambda chunk: fit_from(model, params, start(with_key(chunk, Use.GAPS_SIMULATE)), config.fit)
        simulated["q_params"] = run("q* of simulated data", fit, simulated, config.fit.num_samples)
    values = {}
    for start in config.ais.starts:
        walk = lambda chunk, start=start: both_ways(
            model, params, with_key(chunk, Use.GAPS_SIMULATE), annealing(config), start
        )
        up, down = run(f"BDMC from {start}", walk, simulated, config.ais.num_chains)
        values |= {f"bdmc_{start}_lower": up.log_px, f"bdmc_{start}_upper": down.log_px}
        values[f"bdmc_{start}_acceptance"] = down.acceptance
    return values


@partial(jax.jit, static_argnums=(0, 3, 4))
def anneal(model, params, chunk, settings, start):
    keys, chunk, target = ais_arguments(model, params, chunk, start)
    log_steps = ais.tune(keys, chunk, target, settings)
    return ais.estimate(keys, chunk, target, log_steps, settings)


@partial(jax.jit, static_argnums=(0, 3, 4))
def both_ways(model, params, chunk, settings, start):
    keys, chunk, target = ais_arguments(model, params, chunk, start)
    log_steps = ais.tune(keys, chunk, target, settings)
    up = ais.estimate(keys, chunk, target, log_steps, settings)
    return up, ais.reverse(keys, chunk, chunk["z"], target, log_steps, settings)


def ais_arguments(model, params, chunk, start):
    """Keys, examples and target, as `ais` wants them: the path leads from the prior or from q to p(x, z)."""

    def target(example):
        one = jax.tree.map(lambda array: array[None], example)
        condition = one.get("condition")
        prior = model.prior(params, condition)

        def log_joint(z):
            z = z[None, None]
            return (model.decode(params, z, condition).log_prob(one["image"]) + prior.log_prob(z)).sum()

        return (prior if start == "prior" else model.make_q(params, one["q_params"])), log_joint

    return chunk["key"], {name: leaf for name, leaf in chunk.items() if name != "key"}, target


@partial(jax.jit, static_argnums=0)
def simulate(model, params, chunk):
    """z ~ p(z) and x ~ p(x|z), one for each example's key and condition: {'z': [B, Z], 'image': [B, *event]}."""

    def one(example):
        z_key, x_key = jax.random.split(example["key"])
        condition = example["condition"][None] if "condition" in example else None
        z = sample_prior(model, params, z_key, 1, condition)
        return {"z": z[0, 0], "image": model.decode(params, z, condition).sample(x_key)[0, 0]}

    return jax.vmap(one)({name: chunk[name] for name in ("key", "condition") if name in chunk})


def with_gaps(values):
    """The values with log p(x), the gaps and other differences, each over the examples common to what it is made of."""
    method, log_px = best_bound(values)
    less = lambda a, b: (lambda n: a[:n] - b[:n])(min(len(a), len(b)))
    q, star = values["elbo_q"], values["elbo_q_star"]
    values = {
        **values,
        "log_px": log_px,
        "approximation_gap": less(log_px, star),
        "amortization_gap": less(star, q)[
            : len(log_px)
        ],  # on the same examples, so that the two gaps add up to the third
        "inference_gap": less(log_px, q),
    }
    if len(log_px) < len(q):
        values["amortization_gap_all"] = less(star, q)
    if "elbo_q_star_flow" in values:
        flow = values["elbo_q_star_flow"]
        values |= {"flow_gain": less(flow, star), "approximation_gap_flow": less(log_px, flow)}
    for start in ("q", "prior"):
        if f"bdmc_{start}_lower" in values:
            values[f"bdmc_{start}_gap"] = values[f"bdmc_{start}_upper"] - values[f"bdmc_{start}_lower"]
    return values, method


def shared(values):
    """The lower bounds on log p(x), each on the examples that all of them have."""
    bounds = {name: values[name] for name in BOUNDS if name in values}
    count = min(map(len, bounds.values()))
    return {name: bound[:count] for name, bound in bounds.items()}


def best_bound(values):
    """The name and values of the lower bound on log p(x) with the best average over the examples that all have."""
    bounds = shared(values)
    method = max(bounds, key=lambda name: bounds[name].mean())
    return method, values[method]


def summarize_all(values, method, config):
    """{name: {value, stderr, unit, num_examples}}; log_px says which method it is, rates have their own units."""
    numbers = {}
    for name, value in values.items():
        if name == "q_star_start":
            numbers["q_star_from_start"] = entry(value == 2, "of examples")
        elif name.endswith("acceptance"):
            numbers[name] = {**entry(value.mean(-1), ""), "lowest_stretch": float(value.mean(0).min())}
        else:
            numbers[name] = entry(value, f"of {config.ais.num_chains}" if name.endswith("effective") else "nats")
    numbers["log_px"] |= {"method": method, "bounds_compared": {n: float(v.mean()) for n, v in shared(values).items()}}
    return numbers


def entry(values, unit):
    return {**summarize(values, unit), "num_examples": len(values)}
