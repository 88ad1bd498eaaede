# What the sweeps share; each sources it, calls `run COMMAND... --workdir=DIR` in plain loops, and last `finish COMMAND...`,
# which waits for the runs and then draws. Variables of a sweep:
#
#   CONFIG=experiments/mnist.py:quick   the experiment that is swept; default: experiments/digits.py
#   RUNS=DIR                            where its run directories go; default: runs/SWEEP-EXPERIMENT
#   DRY_RUN=1                           print the commands
#   JOBS=n                              so many runs at once
#
# A finished run prints its summary again, a run that fails is told of at the end and stops no other.

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
CONFIG=${CONFIG:-experiments/digits.py}
RUNS=${RUNS:-runs/$(basename "$0" .sh)-$(basename "$CONFIG" | sed 's/\.py//; s/:/-/')}
JOBS=${JOBS:-1}
DRY_RUN=${DRY_RUN:-0}
runs=()   # the directory of every run
pids=()   # of every run, in the same order

run() {
  runs+=("${*: -1}")
  runs[${#runs[@]}-1]=${runs[${#runs[@]}-1]#--workdir=}
  [ "$DRY_RUN" = 0 ] || { show "$@" && return; }
  while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do sleep 0.1; done
  "$@" &
  pids+=($!)
}

finish() {
  [ "$DRY_RUN" = 0 ] || { show "$@" && return; }
  local i status=0
  for i in "${!pids[@]}"; do
    wait "${pids[i]}" || { echo "FAILED    ${runs[i]}" >&2 && status=1; }
  done
  "$@" || status=1
  return $status
}

show() { printf '%q ' "$@" && echo; }
