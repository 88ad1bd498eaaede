#!/usr/bin/env bash
# Rainforth et al. (2018) and Tucker et al. (2019): signal-to-noise ratio of gradients against K at trained parameters,
# encoder K^-1/2 for IWAE and K^1/2 for DReG, on digits with 2 latent dimensions and on MNIST with 50; and what DReG gains
# over IWAE in NLL. The slopes hold for large K: the further q is from p(z|x), the larger. Where few of K draws carry any
# weight they are out of reach; tests/evaluation/test_gradient_noise.py holds them on the papers' Gaussian toy.
#
#     experiments/reproduce/estimators.sh             IWAE and DReG at k = 1, 5, 50, 200 epochs each; K to 1,024
#     QUICK=1 experiments/reproduce/estimators.sh     ten minutes on two cores: k = 5 alone, 3 epochs, NLL of 1,000 test
#                                                     images; K to 64, 1,000 gradients each
#
# DRY_RUN=1 prints the commands. Further arguments go to every training, say --config.data.manual_dir=DIR; SEED is 0.
# docs/results.md has the quick numbers; the full setting waits for a GPU.
set -euo pipefail
quick=${QUICK:+-quick}
RUNS=${RUNS:-runs/reproduce/estimators$quick}
source "$(dirname "$0")/../sweeps/run.sh"
samples="1 5 50"
measured=(--config.estimators.num_samples=1,4,16,64,256,1024 --config.estimators.num_draws=5000)
if [[ -n "$quick" ]]; then
    samples=5
    measured=(--config.estimators.num_samples=1,4,16,64 --config.estimators.num_draws=1000)
fi

for k in $samples; do
    for method in iwae dreg; do
        run python -m vae_jax.main --config=experiments/reproduce/iwae.py:L1-$method-k$k$quick \
            --config.seed="${SEED:-0}" --workdir="$RUNS/$method-k$k" "${measured[@]}" "$@"
    done
done
run python -m vae_jax.main --config=experiments/digits.py:two --config.seed="${SEED:-0}" --workdir="$RUNS/digits" \
    --config.estimators.num_samples=4,16,64,256 --config.estimators.num_draws=1000 "$@"
wait_for_runs
[[ -f "$RUNS/digits/estimators.npz" ]] || run python -m vae_jax.main --mode=estimators --workdir="$RUNS/digits"
[[ -f "$RUNS/iwae-k5/estimators.npz" ]] || run python -m vae_jax.main --mode=estimators --workdir="$RUNS/iwae-k5"
finish python experiments/reproduce/published.py --table=estimators --runs="$RUNS"
