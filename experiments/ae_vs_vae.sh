#!/usr/bin/env bash
# PCA, autoencoders and VAEs on the same images: trains the variants of ae_vs_vae.py, then compares them.
#
#     bash experiments/ae_vs_vae.sh                 digits, about four minutes on two cores
#     DATA=mnist FLAGS=--config.data.manual_dir=DIR bash experiments/ae_vs_vae.sh
#     DRY_RUN=1 bash experiments/ae_vs_vae.sh       prints the commands, each of which can be run by itself
#
# OUT is the directory of the runs and of both comparisons, FLAGS goes to every training, PYTHON is the interpreter.
# Runs that are finished are skipped, an interrupted one goes on. Run from the root of the repository.
set -euo pipefail

DATA=${DATA:-digits}
OUT=${OUT:-runs/ae_vs_vae/$DATA}
case $DATA in
    digits) prefix= ;;
    mnist) prefix=mnist_ ;;
    *) echo "error: DATA=$DATA: expected digits or mnist" >&2; exit 2 ;;
esac
read -ra flags <<< "${FLAGS:-}"

run() {
    echo "$*"
    if [[ -z ${DRY_RUN:-} ]]; then "$@"; fi
}

two=(linear_ae deep_ae only_reconstruction only_kl vae)
one=(line_ae line_vae line_vae_noisy)

for name in "${two[@]}" "${one[@]}"; do
    run "${PYTHON:-python}" -m vae_jax.main "--config=experiments/ae_vs_vae.py:$prefix$name" "--workdir=$OUT/$name" \
        ${flags[@]+"${flags[@]}"}
done
run "${PYTHON:-python}" experiments/analysis/latent_spaces.py "--out=$OUT/two" "${two[@]/#/$OUT/}"
run "${PYTHON:-python}" experiments/analysis/latent_spaces.py "--out=$OUT/one" "${one[@]/#/$OUT/}"
