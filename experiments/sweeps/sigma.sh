#!/usr/bin/env bash
# Sigma of a normal likelihood as the balance of reconstruction and KL: set, and (last) found in closed form.
set -euo pipefail
. "$(dirname "$0")/run.sh"

for sigma in 0.05 0.1 0.2 0.3 0.5 1; do
  run python -m vae_jax.main --config="$CONFIG" --config.data.binarization=none --config.model.likelihood=normal \
    --config.model.latent_dim=10 --config.model.sigma=$sigma "$@" --workdir="$RUNS/sigma=$sigma"
done
run python -m vae_jax.main --config="$CONFIG" --config.data.binarization=none --config.model.likelihood=normal \
  --config.model.latent_dim=10 --config.model.sigma=0.3 --config.model.sigma_mode=optimal "$@" \
  --workdir="$RUNS/sigma=optimal"

finish python experiments/analysis/sigma.py --out="$RUNS/sigma.png" "${runs[@]}"
