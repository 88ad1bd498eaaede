#!/usr/bin/env bash
# Optimizers, each over learning rates; compared on valid, where settings are chosen.
set -euo pipefail
. "$(dirname "$0")/run.sh"

for optimizer in adam adamax rmsprop lion muon; do
  for learning_rate in 0.0003 0.001 0.003 0.01; do
    for seed in 0 1; do
      run python -m vae_jax.main --config="$CONFIG" --config.optimizer.name=$optimizer \
        --config.optimizer.learning_rate=$learning_rate \
        --config.seed=$seed "$@" --workdir="$RUNS/$optimizer-learning_rate=$learning_rate-seed=$seed"
    done
  done
done

finish python -m vae_jax.report "${runs[@]}" --x=optimizer.learning_rate --by=optimizer.name \
  --y=valid.elbo,train_seconds --out="$RUNS/report"
