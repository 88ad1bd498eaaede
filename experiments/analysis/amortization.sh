#!/usr/bin/env bash
# Amortized or per datapoint? Ways of finding q at equal numbers of decoder updates: encoders of five widths, one q for
# all images, refinement, a table; then a table and an encoder against the number of images and the sharpness of p(x|z).
#
#     experiments/analysis/amortization.sh             MNIST and Fashion-MNIST, 2,784 updates: hours on two cores
#     QUICK=1 experiments/analysis/amortization.sh     5,000 images, 380 updates, ten of the cells: ten minutes
#     QUICK=all experiments/analysis/amortization.sh   all cells that short, 23 minutes
#
# DRY_RUN=1 prints the commands. SEED is 0; MNIST and FASHION are directories of IDX files, where TFDS is not to load
# them. Further arguments go to every training. A cell that is finished is skipped, and the tables say what is missing.
# docs/amortization.md has the results.
set -euo pipefail
quick=${QUICK:+-quick}
seed=${SEED:-0}
RUNS=${RUNS:-runs/analysis/amortization$quick}
source "$(dirname "$0")/../sweeps/run.sh"

all=59600 updates=2784 examples=1000 samples=5000 few=10000
widths="200 16 1 64 800" sizes="100 1000 10000" sigmas="0.3 0.1 0.03 1" more_refinements="1 20" more_updates="5 1 20"
if [[ -n "$quick" ]]; then all=5000 updates=380 examples=200 samples=100 sizes="100 1000" few=1000; fi
if [[ "${QUICK:-}" == 1 ]]; then widths="200 16 64" sizes=1000 sigmas=0.03 more_refinements="" more_updates=""; fi
common=(--config.data.binarization=fixed --config.eval.max_examples=$examples --config.eval.train_examples=$examples
    --config.eval.num_samples=$samples --config.seed="$seed")
extra=("$@")

# cell NAME COUNT ARGUMENT...: a run on COUNT training images, after `updates` updates of the decoder, each of which is
# the last of `encoder_steps` of the encoder, 1 if not set.
cell() {
    local batch=$(($2 < 256 ? $2 : 256))
    batch=$((batch / 4 * 4)) # shared by up to four devices
    local epochs=$((updates * ${encoder_steps:-1} / ($2 / batch)))
    run python -m vae_jax.main --config=experiments/mnist.py --workdir="$RUNS/$1-seed$seed" "${common[@]}" \
        --config.data.num_train="$2" --config.train.batch_size=$batch --config.train.epochs=$epochs \
        --config.train.eval_every=$epochs --config.train.checkpoint_every=$epochs \
        --config.train.log_every=$((updates / 12)) "${@:3}" ${extra[@]+"${extra[@]}"}
}

mnist=(--config.data.manual_dir="${MNIST:-}")
fashion=(--config.data.name=fashion_mnist --config.data.manual_dir="${FASHION:-}"
    --config.data.binarization=none --config.model.likelihood=normal)
table=(--config.inference.kind=per_datapoint)

cell mnist-table-10 $all "${mnist[@]}" "${table[@]}" --config.inference.inner_steps=10
for width in $widths; do
    cell mnist-width-$width $all "${mnist[@]}" --config.model.encoder_hidden="($width, $width)"
done
cell mnist-constant $all "${mnist[@]}" --config.inference.kind=constant
cell mnist-refined-5 $all "${mnist[@]}" --config.inference.kind=semi_amortized --config.inference.steps=5
if [[ "${QUICK:-}" != 1 ]]; then
    encoder_steps=5 cell mnist-aggressive-5 $all "${mnist[@]}" --config.inference.encoder_steps=5
fi
for size in $sizes; do
    cell size-$size-encoder $size "${mnist[@]}"
    cell size-$size-table $size "${mnist[@]}" "${table[@]}" --config.inference.inner_steps=10
done
for sigma in $sigmas; do
    cell sigma-$sigma-encoder $few "${fashion[@]}" --config.model.sigma=$sigma
    cell sigma-$sigma-table $few "${fashion[@]}" "${table[@]}" --config.inference.inner_steps=10 \
        --config.model.sigma=$sigma
done
for steps in $more_refinements; do
    cell mnist-refined-$steps $all "${mnist[@]}" --config.inference.kind=semi_amortized --config.inference.steps=$steps
done
for steps in $more_updates; do
    cell mnist-table-$steps $all "${mnist[@]}" "${table[@]}" --config.inference.inner_steps=$steps
done
if [[ "$DRY_RUN" == 0 ]]; then wait_for_runs; fi
curve=$RUNS/refinement-seed$seed.json
if [[ ! -f $curve ]]; then
    run_once=(python experiments/analysis/refinement.py --out="$curve" "$RUNS/mnist-width-200-seed$seed")
    if [[ "$DRY_RUN" != 0 ]]; then show "${run_once[@]}"; else "${run_once[@]}" || failed+=("${run_once[*]}"); fi
fi
finish python experiments/analysis/amortization.py --runs="$RUNS" --out="$RUNS/report"
