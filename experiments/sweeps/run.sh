# What the sweeps share; each sources it and then calls `run COMMAND... --workdir=DIR` in plain loops, and last
# `finish COMMAND...`, which waits for the runs and then makes the report. Variables of a sweep:
#
#   CONFIG=experiments/mnist.py:quick   the experiment that is swept; default: experiments/digits.py
#   RUNS=DIR                            where its run directories go; default: runs/SWEEP-EXPERIMENT
#   DRY_RUN=1                           print the commands
#   JOBS=n                              so many runs at once (on one GPU with XLA_PYTHON_CLIENT_PREALLOCATE=false)
#
# Whatever else is on the sweep's command line goes to every run: experiments/sweeps/beta.sh --config.train.epochs=20.
# A run that has finished is skipped, one that was stopped goes on, one that fails is reported at the end with its log.
# Paths are relative to the root of the repository. Runs on the bash 3.2 of macOS.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
sweep=$(basename "$0" .sh)
CONFIG=${CONFIG:-experiments/digits.py}
experiment=$(basename "$CONFIG")
RUNS=${RUNS:-runs/$sweep-$(echo "$experiment" | sed 's/\.py//; s/:/-/')}
JOBS=${JOBS:-1}
DRY_RUN=${DRY_RUN:-0}
runs=()                           # the directory of every run, for the report
names=() pids=() logs=() since=() # of the runs in flight
failed=()                         # a line for each

refuse() { echo "error: $*" >&2 && exit 2; }

case $JOBS in *[!0-9]* | 0*) refuse "JOBS=$JOBS: expected how many runs at once, say JOBS=2" ;; esac
[ -f "${CONFIG%%:*}" ] || refuse "CONFIG=$CONFIG: there is no such file below $PWD"

# run COMMAND...: starts a run, as soon as fewer than JOBS are in flight.
run() {
  local argument directory=''
  for argument in "$@"; do
    case $argument in --workdir=*) directory=${argument#--workdir=} ;; esac
  done
  [ -n "$directory" ] || refuse "run needs --workdir=DIR: $*"
  runs+=("$directory")
  if [ "$DRY_RUN" != 0 ]; then
    show "$@"
  elif python "$here/finished.py" "$directory" "$@" 2> /dev/null; then
    echo "finished  $directory"
  else
    while [ ${#pids[@]} -ge "$JOBS" ]; do sleep 0.1 && reap; done
    start "$directory" "$@"
  fi
}

# wait_for_runs: waits for all runs in flight, before what is made of them.
wait_for_runs() {
  while [ ${#pids[@]} -gt 0 ]; do sleep 0.1 && reap; done
}

# finish COMMAND...: waits for all runs, runs the report, tells what failed. Its status is 1 if anything did.
finish() {
  [ "$DRY_RUN" = 0 ] || { show "$@" && return; }
  wait_for_runs
  echo
  local status=0
  "$@" || status=1
  [ ${#failed[@]} -eq 0 ] || { printf 'FAILED    %s\n' "${failed[@]}" >&2 && status=1; }
  return $status
}

show() { printf '%q ' "$@" && echo; }

start() {
  local argument name log
  name=$(basename "$1")
  for argument in "$@"; do
    case $argument in --mode=*) name=$name-${argument#--mode=} ;; esac
  done
  log=$RUNS/logs/$name.log
  mkdir -p "$RUNS/logs"
  shift
  echo "started   $name (${#runs[@]}), log $log"
  "$@" > "$log" 2>&1 < /dev/null & # the command itself, not a shell around it, so that stop reaches it
  names+=("$name") pids+=($!) logs+=("$log") since+=($SECONDS)
}

# Takes what has ended out of what is in flight.
reap() {
  local i status
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2> /dev/null && continue
    status=0
    wait "${pids[i]}" || status=$?
    if [ $status -eq 0 ]; then
      echo "done      ${names[i]}, $((SECONDS - since[i])) s"
    else
      echo "failed    ${names[i]}, see ${logs[i]}"
      failed+=("${names[i]}: exit status $status, log ${logs[i]}: $(tail -n 1 "${logs[i]}")")
    fi
    unset "names[i]" "pids[i]" "logs[i]" "since[i]"
  done
}

# However the sweep ends, no run outlives it. Background commands ignore Ctrl-C, so they are sent a TERM.
stop() {
  trap '' INT TERM HUP
  [ ${#pids[@]} -gt 0 ] || return 0
  kill "${pids[@]}" 2> /dev/null || true
  wait
  echo "stopped: the same command goes on" >&2
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
