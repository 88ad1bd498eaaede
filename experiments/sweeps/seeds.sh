#!/usr/bin/env bash
# One experiment from ten seeds: how far its numbers are from one another by chance.
set -euo pipefail
. "$(dirname "$0")/run.sh"

for seed in 0 1 2 3 4 5 6 7 8 9; do
  run python -m vae_jax.main --config="$CONFIG" --config.seed=$seed "$@" --workdir="$RUNS/seed=$seed"
done

finish python -m vae_jax.report "${runs[@]}" --out="$RUNS/report"
