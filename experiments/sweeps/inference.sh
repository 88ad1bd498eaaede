#!/usr/bin/env bash
# How q(z|x) is found: by an encoder, by parameters of its own for every example, by an encoder whose proposal is refined.
# Each from the experiment file that tunes it: digits.py, digits_per_datapoint.py, digits_semi_amortized.py.
set -euo pipefail
. "$(dirname "$0")/run.sh"

file=${CONFIG%%:*}
fixed=--config.data.binarization=fixed # one q is for one x
case $CONFIG in *digits.py*) [[ $CONFIG == *:two* ]] || fixed= ;; esac # grey images need none
for kind in amortized per_datapoint semi_amortized; do
  config=${file%.py}_$kind.py${CONFIG#"$file"}
  [ $kind != amortized ] || config=$CONFIG
  for seed in 0 1 2; do
    run python -m vae_jax.main --config="$config" $fixed \
      --config.seed=$seed "$@" --workdir="$RUNS/$kind-seed=$seed"
  done
done

finish python -m vae_jax.report "${runs[@]}" --x=inference.kind --out="$RUNS/report"
