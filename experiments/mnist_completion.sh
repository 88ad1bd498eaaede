#!/usr/bin/env bash
# Trains the conditional VAE and the regressor of experiments/mnist_completion.py and draws both in one picture.
#
#     bash experiments/mnist_completion.sh [quick] [--config.KEY=VALUE ...]
#
# Runs that are finished are not trained again. RUNS is where they go, by default runs.
set -euo pipefail
cvae="" regressor=regressor
if [ "${1:-}" = quick ]; then
    cvae=quick regressor=quick_regressor
    shift
fi
runs=${RUNS:-runs}
experiment=experiments/mnist_completion.py
first=$runs/mnist_completion${cvae:+-$cvae} second=$runs/mnist_completion-$regressor

python -m vae_jax.main --config="$experiment${cvae:+:$cvae}" --workdir="$first" "$@"
python -m vae_jax.main --config="$experiment:$regressor" --workdir="$second" "$@"
python experiments/analysis/completions.py --out="$first/completions.png" "$first" "$second"
