#!/usr/bin/env bash
# The autoencoder of experiments/cifar10_ae.py at four latent sizes, and its squared error against them. On an .npz:
#
#   CONFIG=experiments/cifar10_ae.py:quick experiments/sweeps/cifar10_ae.sh \
#     --config.data.name=npz --config.data.path=FILE.npz
set -euo pipefail
CONFIG=${CONFIG:-experiments/cifar10_ae.py}
. "$(dirname "$0")/run.sh"
OUT=${OUT:-$RUNS/report}

for latent_dim in 64 128 256 384; do
  run python -m vae_jax.main --config="$CONFIG" --config.model.latent_dim=$latent_dim "$@" \
    --workdir="$RUNS/latent_dim=$latent_dim"
done

finish python -m vae_jax.report --x=model.latent_dim --y=test.squared_error --out="$OUT" "${runs[@]}"
