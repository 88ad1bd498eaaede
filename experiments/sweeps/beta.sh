#!/usr/bin/env bash
# Beta-VAE: rate and distortion over the weight of the KL. Higgins et al. (2017), Alemi et al. (2018).
set -euo pipefail
. "$(dirname "$0")/run.sh"

for beta in 0.1 0.25 0.5 1 2 4 10; do
  for seed in 0 1 2; do
    run python -m vae_jax.main --config="$CONFIG" --config.objective.name=beta --config.objective.beta=$beta \
      --config.seed=$seed "$@" --workdir="$RUNS/beta=$beta-seed=$seed"
  done
done

finish python -m vae_jax.report "${runs[@]}" --x=objective.beta --out="$RUNS/report"
