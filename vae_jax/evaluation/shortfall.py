"""How far fits of q are from the best that they could be, and the best of several fits.

    shortfall = max_q L[q] - L[q fitted]  >=  L[q'] - L[q fitted]    for any q'; L on noise that has chosen neither

q' comes from another fit of a few of the examples, from two starts, with more draws and at a lower rate. A longer fit
of the first kind would not find what is left: its values hardly change any more. L is the mean of log w = log p(x, z) -
log q(z|x), which near the best q has far less variance than a bound with its KL in closed form.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vae_jax.evaluation.bounds import log_weights
from vae_jax.evaluation.examples import fit_from, in_chunks, summarize
from vae_jax.keys import Use, fold_each
from vae_jax.models.model import Model
from vae_jax.parallel.devices import ONE_DEVICE, Spread

MORE_DRAWS, LOWER_RATE = 4, 1 / 3  # of the second fit, against the first
DRAWS = 100  # of each L


def make_runner(
    model: Model, params: Any, chunk_images: int, spread: Spread = ONE_DEVICE, progress: Callable = lambda *_: None
) -> Callable:
    """What measures examples in chunks, each with keys folded for one use.

    Args:
        model, params: the trained model.
        chunk_images: images decoded at once, at most.
        spread: over which devices a chunk is divided.
        progress: called with (title, examples done, of how many).

    Returns:
        run(title, use, function, examples, *options, images=1) -> host arrays: function(model, params, chunk, *options)
        of every chunk. images: decoded at once for an example. use: of the examples' keys; None: as they are.
    """

    def run(title, use, function, examples, *options, images=1):
        def call(chunk):
            chunk = chunk if use is None else {**chunk, "key": fold_each(chunk["key"], use)}
            return function(model, params, chunk, *options)

        total = len(examples["key"])
        done = lambda done: progress(title, done, total)
        done(0)  # the first chunk compiles, and may be all there is
        return in_chunks(call, examples, max(1, chunk_images // images), spread, done)

    return run


def mean_log_weight(run: Callable, title: str, use: Use, examples: dict, num_samples: int) -> np.ndarray:
    """L = E_q[log p(x, z) - log q(z|x)] of each example's q_params, `[N]` in nats, from `num_samples` draws.

    Args:
        run: of `make_runner`.
        title: for the progress.
        use: which noise.
        examples: with 'image', 'key', 'q_params' and where there is one 'condition'.
        num_samples: draws of z for each example.

    Returns:
        L `[N]`.
    """
    return run(title, use, log_weights_of_q, examples, num_samples).mean(1)


def log_weights_of_q(model, params, chunk, num_samples):
    return log_weights(model, params, chunk, "q", num_samples, 1).T


def best_of(run: Callable, title: str, use: Use, candidates: list[dict], num_samples: int) -> tuple[dict, np.ndarray]:
    """Of several versions of the examples the one with the larger L for each.

    Args:
        run, title, use, num_samples: as in `mean_log_weight`.
        candidates: examples that differ in 'q_params'.

    Returns:
        The examples with the best q_params, and the number of its version `[N]`.
    """
    best = np.stack([mean_log_weight(run, title, use, each, num_samples) for each in candidates]).argmax(0)
    choose = lambda *q_params: np.stack(q_params)[best, np.arange(len(best))]
    q_params = jax.tree.map(choose, *(candidate["q_params"] for candidate in candidates))
    return {**candidates[0], "q_params": q_params}, best


def start_table(model, params, chunk):
    """The q_params of an untrained table."""
    return model.start_q_params(chunk["key"])


def shortfall_numbers(run: Callable, examples: dict, fit: Any) -> dict:
    """What fitted q_params are known to fall short, in nats, from `fit.check_examples` of the examples.

    Args:
        run: of `make_runner`.
        examples: with 'q_params' that were fitted and 'stopped', as `with_q_params` makes them.
        fit: config.fit, or a group of the same keys.

    Returns:
        {name: {'value', 'stderr', 'unit'}}: 'fit_shortfall', a lower bound, which may come out below 0 by its noise;
        'fit_stopped', the share of all examples whose fit ended before its last step.
    """
    total = len(examples["stopped"])
    numbers = {"fit_stopped": summarize(examples["stopped"], "of examples")}
    if not fit.check_examples:
        return numbers
    chosen = np.random.default_rng(0).permutation(total)[: fit.check_examples]
    given = {name: examples[name] for name in ("image", "key", "q_params", "condition") if name in examples}
    given = jax.tree.map(lambda array: array[chosen], given)
    rates = {name: LOWER_RATE * fit[name] for name in ("natural_rate", "learning_rate")}
    finer = type(fit)(fit.to_dict() | rates | {"num_samples": MORE_DRAWS * fit.num_samples})
    again = lambda use, start: {**start, **run("fitting again", use, fit_from, start, finer, images=finer.num_samples)}
    start = {**given, "q_params": run("starts", Use.CHECK_START, start_table, given)}
    candidates = [given, again(Use.CHECK_FIT_FROM_Q, given), again(Use.CHECK_FIT_FROM_START, start)]
    best, _ = best_of(run, "judging", Use.CHECK_JUDGE, candidates, DRAWS)
    reached, had = (mean_log_weight(run, "shortfall", Use.CHECK_REPORT, each, DRAWS) for each in (best, given))
    return numbers | {"fit_shortfall": {**summarize(reached - had), "num_examples": len(chosen)}}
