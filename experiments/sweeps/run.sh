# Sourced by sweeps: `run COMMAND...` runs a command, or with DRY_RUN=1 prints it, and goes on when it fails; a training
# whose --workdir is finished is skipped. `finish` reports what failed.
failures=()

run() {
    local argument workdir="" mode="train"
    for argument in "$@"; do
        case "$argument" in
            --workdir=*) workdir="${argument#*=}" ;;
            --mode=*) mode="${argument#*=}" ;;
        esac
    done
    if [[ -n "${DRY_RUN:-}" ]]; then
        printf '%q ' "$@"
        echo
    elif [[ "$mode" == train && -n "$workdir" && -f "$workdir/summary.json" ]]; then
        echo "finished: $workdir"
    else
        "$@" || failures+=("$*")
    fi
}

finish() {
    if ((${#failures[@]})); then
        printf 'failed: %s\n' "${failures[@]}" >&2
        exit 1
    fi
}
