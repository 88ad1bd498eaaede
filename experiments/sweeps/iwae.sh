#!/usr/bin/env bash
# The importance-weighted bound over its number of samples K; K = 1 is the ELBO. Burda et al. (2016), Table 1.
set -euo pipefail
. "$(dirname "$0")/run.sh"

for num_samples in 1 5 50; do
  for seed in 0 1 2; do
    run python -m vae_jax.main --config="$CONFIG" --config.objective.name=iwae \
      --config.objective.num_samples=$num_samples \
      --config.seed=$seed "$@" --workdir="$RUNS/num_samples=$num_samples-seed=$seed"
  done
done

finish python -m vae_jax.report "${runs[@]}" --x=objective.num_samples --out="$RUNS/report"
