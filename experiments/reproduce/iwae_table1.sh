#!/usr/bin/env bash
# Burda, Grosse and Salakhutdinov (2016), Table 1, MNIST: NLL of VAE and IWAE at k = 1, 5, 50 with one and two layers.
#
#     experiments/reproduce/iwae_table1.sh             200 epochs each: for a GPU; on two cores k = 50 takes days
#     QUICK=1 experiments/reproduce/iwae_table1.sh     ten minutes on two cores: k = 1 and 5, seven and three epochs, so that only
#                                                      runs of one k can be compared; NLL of 1,000 test images
#
# DRY_RUN=1 prints the commands. Further arguments go to every training, say --config.data.manual_dir=DIR; SEED is 0.
# docs/results.md has the quick numbers; the full setting waits for a GPU.
set -euo pipefail
quick=${QUICK:+-quick}
RUNS=${RUNS:-runs/reproduce/iwae_table1$quick}
source "$(dirname "$0")/../sweeps/run.sh"

methods="vae-k1 vae-k5 iwae-k5 vae-k50 iwae-k50"  # at k = 1 the two are the same
if [[ -n "$quick" ]]; then methods="vae-k1 vae-k5 iwae-k5"; fi
for layers in L1 L2; do
    for method in $methods; do
        run python -m vae_jax.main --config=experiments/reproduce/iwae.py:$layers-$method$quick \
            --config.seed="${SEED:-0}" --workdir="$RUNS/$layers-$method" "$@"
    done
done
finish python experiments/reproduce/published.py --table=iwae_table1 --runs="$RUNS"
