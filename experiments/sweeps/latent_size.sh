#!/usr/bin/env bash
# How many latent dimensions: what is gained by more, and how many of them are used.
set -euo pipefail
. "$(dirname "$0")/run.sh"

for latent_dim in 2 5 10 20 50; do
  for seed in 0 1 2; do
    run python -m vae_jax.main --config="$CONFIG" --config.model.latent_dim=$latent_dim \
      --config.seed=$seed "$@" --workdir="$RUNS/latent_dim=$latent_dim-seed=$seed"
  done
done

finish python -m vae_jax.report "${runs[@]}" --x=model.latent_dim --out="$RUNS/report"
