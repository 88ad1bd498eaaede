#!/usr/bin/env bash
# Cremer, Li and Duvenaud (2018): approximation and amortization gaps of amortized VAEs with a Gaussian and a flow q.
#
#     experiments/reproduce/inference_gaps.sh             MNIST and Fashion-MNIST, 200 epochs, gaps of 1,000 test images
#     QUICK=1 experiments/reproduce/inference_gaps.sh     ten minutes on two cores: MNIST, 12 epochs, gaps of 100 images
#
# Needs pip install -e '.[ais]'. DRY_RUN=1 prints the commands. Further arguments go to every training, say
# --config.data.manual_dir=DIR; SEED is 0.
# docs/results.md has the quick numbers; the full setting waits for a GPU.
set -euo pipefail
quick=${QUICK:+-quick}
RUNS=${RUNS:-runs/reproduce/inference_gaps$quick}
source "$(dirname "$0")/../sweeps/run.sh"

sets="mnist fashion"
if [[ -n "$quick" ]]; then sets=mnist; fi
for data in $sets; do
    for posterior in normal flow; do
        run python -m vae_jax.main --config=experiments/reproduce/gaps.py:$data-$posterior$quick \
            --config.seed="${SEED:-0}" --workdir="$RUNS/$data-$posterior" "$@"
    done
done
wait_for_runs
for data in $sets; do
    for posterior in normal flow; do
        workdir="$RUNS/$data-$posterior"
        [[ -f "$workdir/gaps.npz" ]] || run python -m vae_jax.main --mode=gaps --workdir="$workdir"
    done
done
finish python experiments/reproduce/published.py --table=inference_gaps --runs="$RUNS"
