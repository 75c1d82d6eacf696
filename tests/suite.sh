# Sourced by tests/run and .ci/run: runs suites one after the other and sums
# them up. A suite is a command; exit status 77 says that something is missing
# which could be had, a failure where CI is set and a skip elsewhere; 78 that
# this kind of machine cannot run it at all, a skip everywhere.

suite_lines=()
suites_passed=0 suites_failed=0 suites_skipped=0

# suite NAME COMMAND...
suite() {
    local name=$1 started=$SECONDS status=0 verdict
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" </dev/null || status=$?
    if [ $status -eq 0 ]; then
        verdict=PASS suites_passed=$((suites_passed + 1))
    elif [ $status -eq 78 ] || { [ $status -eq 77 ] && [ -z "${CI:-}" ]; }; then
        verdict=SKIP suites_skipped=$((suites_skipped + 1))
    else
        verdict=FAIL suites_failed=$((suites_failed + 1))
    fi
    suite_lines+=("$(printf '%s  %-10s %4d s' "$verdict" "$name" $((SECONDS - started)))")
    printf '%s\n' "${suite_lines[-1]}"
}

# The closing lines; fails if a suite did.
suites_close() {
    printf '\n'
    printf '%s\n' "${suite_lines[@]}"
    printf '%d passed, %d failed, %d skipped\n' "$suites_passed" "$suites_failed" "$suites_skipped"
    [ "$suites_failed" -eq 0 ]
}
