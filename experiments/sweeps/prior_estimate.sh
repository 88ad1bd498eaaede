#!/usr/bin/env bash
# log p(x) from draws of the prior and from draws of q, against their number, as z has more dimensions.
set -euo pipefail
. "$(dirname "$0")/run.sh"

for latent_dim in 2 5 10 20 50; do
  run python -m vae_jax.main --config="$CONFIG" --config.model.latent_dim=$latent_dim "$@" \
    --workdir="$RUNS/latent_dim=$latent_dim"
done

finish python experiments/analysis/prior_estimate.py --out="$RUNS/prior_estimate.png" "${runs[@]}"
