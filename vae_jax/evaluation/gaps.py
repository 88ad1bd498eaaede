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
from vae_jax.evaluation import ais, nuts, pareto
from vae_jax.evaluation.bounds import SAMPLES_AT_ONCE, importance_log_px
from vae_jax.evaluation.examples import fit_from, summarize
from vae_jax.evaluation.shortfall import best_of, make_runner, mean_log_weight, shortfall_numbers, start_table
from vae_jax.keys import Use, fold_each
from vae_jax.models.fits import natural
from vae_jax.models.model import sample_prior
from vae_jax.objectives.elbo import draw
from vae_jax.parallel.devices import ONE_DEVICE

BOUNDS = ("iwae_q", "iwae_q_star", "ais_q", "ais_prior")  # on log p(x), from below
MOMENTS = 256  # draws whose mean and standard deviation begin a flow where q* is no Gaussian

# difference -> the two values that it is made of
GAPS = {
    "approximation_gap": ("log_px", "elbo_q_star"),
    "amortization_gap": ("elbo_q_star", "elbo_q"),
    "inference_gap": ("log_px", "elbo_q"),
    "flow_gain": ("elbo_q_star_flow", "elbo_q_star"),
    "approximation_gap_flow": ("log_px", "elbo_q_star_flow"),
    "bdmc_q_gap": ("bdmc_q_upper", "bdmc_q_lower"),
    "bdmc_prior_gap": ("bdmc_prior_upper", "bdmc_prior_lower"),
}


def measure_gaps(
    model,
    params,
    examples,
    config,
    spread=ONE_DEVICE,
    progress=lambda title, done, total: None,
    keep=lambda name, measure: measure(),
):
    """The gaps of a model over examples: ({name: {value, stderr, unit, num_examples}}, {name: array per example}).

    examples: 'image', 'key', 'q_params' and where there is one 'condition', each `[N, ...]`, as `with_q_params`
        makes them; the first `config.num_examples` count, and AIS, flow and BDMC take the first of those.
    config: config.gaps. The arrays of the second result are as long as the examples that they were measured on.
    keep: keep(name, measure) -> measure(), dicts of arrays, or what an earlier process had of it (`runs.stages`).
    """
    run = make_runner(model, params, config.chunk_images, spread, progress)
    examples = {name: examples[name] for name in ("image", "key", "q_params", "condition") if name in examples}
    examples = first(examples, config.num_examples)
    own = keep("q_star", partial(own_family, run, examples, config))
    star, values = {**examples, **own["fitted"]}, own["values"]
    for name, use, given in (("q", None, examples), ("q_star", Use.GAPS_IWAE_Q_STAR, star)):
        # without a use of its own IWAE from q repeats the NLL of the run
        values |= keep(f"iwae_{name}", partial(importance, run, name, use, given, config.num_samples))
    if config.flow.num_examples:
        flow_run = make_runner(with_flow(model), params, config.chunk_images, spread, progress)
        values |= keep("flow", partial(flow_family, run, flow_run, first(star, config.flow.num_examples), config))
    if config.ais.num_examples:
        few = first(star, config.ais.num_examples)
        for start in config.ais.starts:
            values |= keep(f"ais_{start}", partial(annealed, run, few, config.ais, start))
    if config.ais.num_simulated:
        few = first(examples, config.ais.num_simulated)
        simulated = {**few, **keep("simulated", partial(simulated_examples, run, few, config))}
        for start in config.ais.starts:
            values |= keep(f"bdmc_{start}", partial(bidirectional, run, simulated, config.ais, start))
    others = {name: {**star, "z": values.pop(f"{name}_z")} for name in BOUNDS if f"{name}_z" in values}
    values, compared = with_gaps(values)
    numbers = summarize_all(values, compared, config) | shortfall_numbers(run, star, config.fit)
    if config.nuts.num_examples:
        count = min([config.nuts.num_examples, *(len(given["z"]) for given in others.values())])
        few = {name: first(given, count) for name, given in ({"q": examples, "q_star": star} | others).items()}
        more, found = nuts.compare(run, path_of, few, config.nuts)
        numbers |= {name: {**number, "num_examples": count} for name, number in more.items()}
        values |= found
    return numbers, values


def first(examples, count):
    return jax.tree.map(lambda array: array[:count], examples)


def own_family(run, examples, config):
    """What q* of the family is, 'q_params' and whether each fit 'stopped', and L of q and q*."""
    start = {**examples, "q_params": run("starts", Use.GAPS_START, start_table, examples)}
    images = config.fit.num_samples
    fit = lambda title, use, given: {**given, **run(title, use, fit_from, given, config.fit, images=images)}
    fitted = [fit("q* from q", Use.GAPS_FIT_FROM_Q, examples), fit("q* from the start", Use.GAPS_FIT_FROM_START, start)]
    star, best = best_of(run, "judging q*", Use.GAPS_JUDGE, [examples, *fitted], config.elbo_samples)
    elbo = lambda title, given: mean_log_weight(run, title, Use.GAPS_REPORT, given, config.elbo_samples)
    values = {"elbo_q": elbo("L[q]", examples), "elbo_q_star": elbo("L[q*]", star), "q_star_start": best}
    stopped = np.stack([np.ones_like(best, bool), *(each["stopped"] for each in fitted)])
    found = {"q_params": star["q_params"], "stopped": stopped[best, np.arange(len(best))]}
    return {"fitted": found, "values": values}


def importance(run, name, use, examples, num_samples):
    """log p(x) by importance sampling from q or q*, and the index of the weights' tail."""
    at_once = min(SAMPLES_AT_ONCE, num_samples)
    found = run(f"IWAE from {name}", use, importance_log_px, examples, num_samples, at_once, images=at_once)
    tail = {f"iwae_{name}_pareto_k": found["pareto_k"]} if "pareto_k" in found else {}
    return {f"iwae_{name}": found["log_px"], **tail}


def flow_family(run, flow_run, star, config):
    """L of q*_flow for examples that have the q_params of q*; `flow_run`: of the model whose q is a flow."""
    star = {**star, "q_params": run("flow: start", Use.GAPS_FLOW_START, start_flow, star, config.flow)}
    images = config.flow.num_samples
    fitted = flow_run("flow q*", Use.GAPS_FLOW_FIT, fit_from, star, config.flow, images=images)
    draws, candidates = config.elbo_samples, [star, {**star, **fitted}]
    star, _ = best_of(flow_run, "judging flow q*", Use.GAPS_FLOW_JUDGE, candidates, draws)
    return {"elbo_q_star_flow": mean_log_weight(flow_run, "L[q* flow]", Use.GAPS_REPORT, star, draws)}


def with_flow(model):
    """The model with a coupling flow of each example's own for its q."""
    return model._replace(make_q=make_flow, density_anywhere=True, ascent=natural())


def make_flow(params, q_params):
    return CouplingFlow(q_params["mean"], q_params["log_std"], q_params["mean"][..., :0], q_params["flow"])


@partial(jax.jit, static_argnums=(0, 3))
def start_flow(model, params, chunk, flow):
    """The q_params at which a flow is q* itself, or if q* is no diagonal Gaussian, one with its mean and variance."""
    q = model.make_q(params, chunk["q_params"])
    if isinstance(q, Normal):
        mean, log_std = q.mean, jnp.broadcast_to(q.log_std, q.mean.shape)
    else:
        z, _ = draw(fold_each(chunk["key"], 0), q, MOMENTS)
        mean, log_std = z.mean(0), jnp.log(z.std(0))
    weights = partial(init_coupling, latent_dim=mean.shape[-1], layers=flow.layers, width=flow.width)
    return {"mean": mean, "log_std": log_std, "flow": jax.vmap(weights)(fold_each(chunk["key"], 1))}


def annealed(run, star, config, start):
    """AIS for examples that have the q_params of q*; config: config.gaps.ais."""
    settings, images = settings_of(config), config.num_chains
    found = run(f"AIS from {start}", Use.GAPS_ANNEAL, anneal, star, settings, start, images=images)
    named = {"": found.log_px, "_acceptance": found.acceptance, "_ess": found.ess, "_z": found.z}
    return {f"ais_{start}{ending}": value for ending, value in named.items()}


def simulated_examples(run, examples, config):
    """Data drawn from the model, with the z of each, and the q_params of their q* where AIS starts from it."""
    drawn = run("simulating", Use.GAPS_SIMULATE, simulate, examples)
    if "q" not in config.ais.starts:
        return drawn
    simulated = {**examples, **drawn}
    simulated["q_params"] = run("starts of simulated data", Use.GAPS_SIMULATED_START, start_table, simulated)
    title, images = "q* of simulated data", config.fit.num_samples
    fitted = run(title, Use.GAPS_SIMULATED_FIT, fit_from, simulated, config.fit, images=images)
    return {**drawn, "q_params": fitted["q_params"]}


def bidirectional(run, simulated, config, start):
    """AIS and reverse AIS on data drawn from the model: bounds on its log p(x) from both sides."""
    title, use, images = f"BDMC from {start}", Use.GAPS_SIMULATED_ANNEAL, config.num_chains
    up, down = run(title, use, anneal, simulated, settings_of(config), start, True, images=images)
    named = {"lower": up.log_px, "upper": down.log_px, "acceptance": down.acceptance}
    return {f"bdmc_{start}_{name}": value for name, value in named.items()}


def settings_of(config):
    """How config.gaps.ais walks, as `ais` wants it."""
    return ais.Annealing(*(config[name] for name in ais.Annealing._fields))


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def anneal(model, params, chunk, settings, start, both_ways=False):
    """AIS from the prior or from q to p(x, z); with `both_ways` also back from chunk["z"]."""
    keys, examples = chunk["key"], {name: leaf for name, leaf in chunk.items() if name != "key"}
    target = partial(path_of, model, params, start)
    log_steps = ais.tune(keys, examples, target, settings)
    up = ais.estimate(keys, examples, target, log_steps, settings)
    return (up, ais.reverse(keys, examples, examples["z"], target, log_steps, settings)) if both_ways else up


def path_of(model, params, start, example):
    """(start, log p(x, z)) of one example, as `ais` wants them; start: 'prior' or 'q'."""
    one = jax.tree.map(lambda array: array[None], example)
    condition = one.get("condition")
    prior = model.prior(params, condition)

    def log_joint(z):
        z = z[None, None]
        return (model.decode(params, z, condition).log_prob(one["image"]) + prior.log_prob(z)).sum()

    return (prior if start == "prior" else model.make_q(params, one["q_params"])), log_joint


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
    """The values with log p(x) and the differences, and what `compare_bounds` finds.

    A difference is over the examples that both its terms have; the amortization gap over those of log p(x) too, so that
    the two gaps add up to the third.
    """
    compared = compare_bounds(values)
    values = {**values, "log_px": values[max(compared, key=lambda name: compared[name])]}
    less = lambda a, b: (lambda n: a[:n] - b[:n])(min(len(a), len(b)))
    gaps = {name: less(values[a], values[b]) for name, (a, b) in GAPS.items() if a in values and b in values}
    common = len(values["log_px"])
    if common < len(gaps["amortization_gap"]):
        gaps["amortization_gap_all"] = gaps["amortization_gap"]
        gaps["amortization_gap"] = gaps["amortization_gap"][:common]
    return values | gaps, compared


def compare_bounds(values):
    """{name: average} of the lower bounds on log p(x) over the examples that all have; the best is log p(x)."""
    bounds = {name: values[name] for name in BOUNDS if name in values}
    count = min(map(len, bounds.values()))
    return {name: float(bound[:count].mean()) for name, bound in bounds.items()}


def summarize_all(values, compared, config):
    """{name: {value, stderr, unit, num_examples}}; log_px says which method it is, rates have their own units."""
    numbers = {}
    for name, value in values.items():
        if name == "q_star_start":
            numbers["q_star_from_start"] = entry(value == 2, "of examples")
        elif name.endswith("pareto_k"):
            numbers[name] = entry(value, f"{(value > pareto.HIGH).mean():.0%} above {pareto.HIGH}")
        elif name.endswith("acceptance"):
            numbers[name] = {**entry(value.mean(-1), ""), "lowest_stretch": float(value.mean(0).min())}
        else:
            numbers[name] = entry(value, f"of {config.ais.num_chains}" if name.endswith("ess") else "nats")
    numbers["log_px"] |= {"method": max(compared, key=lambda name: compared[name]), "bounds_compared": compared}
    return numbers


def entry(values, unit):
    return {**summarize(values, unit), "num_examples": len(values)}
