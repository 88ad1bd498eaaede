"""Measuring a trained model: (model, params, examples, config, spread) -> arrays and numbers, never a picture."""

from vae_jax.evaluation.bounds import bound_numbers, elbo_terms, importance_log_px, likelihood_numbers
from vae_jax.evaluation.examples import in_chunks, split_examples, summarize, with_entries, with_means, with_q_params
from vae_jax.evaluation.generation import decode_means, prior_means, reconstruct
from vae_jax.evaluation.summary import measure_all, measure_bound, measure_further

# gaps, ais and nuts need blackjax, which is optional: they are imported by those who ask for them

__all__ = ["bound_numbers", "decode_means", "elbo_terms", "importance_log_px", "in_chunks", "likelihood_numbers"]
__all__ += ["measure_all", "measure_bound", "measure_further", "prior_means", "reconstruct", "split_examples"]
__all__ += ["summarize", "with_entries", "with_means", "with_q_params"]
