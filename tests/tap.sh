# shellcheck shell=sh
# tap.sh - TAP for shell tests; source it first: . "${0%/*}/../tap.sh"
# SPDX-License-Identifier: MIT
#
#   ok 'title' 'commands'    passes when the commands (an && chain, run in a subshell) end with 0
#   must_exit CODE cmd...    true when cmd exits with just that code
#   skip 'title' 'reason'    counts as passed, and says why
#   wait_for FILE            true as soon as it has something in it, false after 20 s
#   done_testing             the plan; exit status 1 when something failed
#
# The current folder is a scratch folder of this test, which goes at the end (KEEP=1: stays).
# The tools are in $SSM_BIN.

n_tests=0 n_failed=0
: "${SSM_BIN:?set SSM_BIN to the folder of the tools}"
case $SSM_BIN in /*) ;; *) SSM_BIN=$PWD/$SSM_BIN ;; esac
tap_dir=$(mktemp -d "${TMPDIR:-/tmp}/ssm-test.XXXXXX") || exit 1
if [ -n "${KEEP:-}" ]; then
    echo "# in $tap_dir"
else
    trap 'cd /; rm -rf "$tap_dir"' EXIT
fi
trap 'exit 130' INT TERM
cd "$tap_dir" || exit 1

ok() {
    n_tests=$((n_tests + 1))
    if tap_out=$( (eval "$2") 2>&1); then
        echo "ok $n_tests - $1"
    else
        n_failed=$((n_failed + 1))
        echo "not ok $n_tests - $1"
        printf '%s\n' "not ok: ${0##*/}: $1" "$2" "$tap_out" | sed 's/^/#   /' >&2 # prove shows this, and not the line above
    fi
}

skip() {
    n_tests=$((n_tests + 1))
    echo "ok $n_tests - $1 # SKIP $2"
    echo "skipped: ${0##*/}: $1: $2" >&2 # prove shows this, and not the line above
}

must_exit() {
    tap_want=$1
    shift
    "$@"
    tap_got=$?
    [ "$tap_got" -eq "$tap_want" ] || { echo "exit code $tap_got, not $tap_want: $*" >&2; return 1; }
}

# until a file has something in it; false after 20 seconds
wait_for() {
    tap_tries=0
    until [ -s "$1" ]; do
        tap_tries=$((tap_tries + 1))
        [ $tap_tries -lt 400 ] || { echo "'$1' does not come" >&2; return 1; }
        sleep 0.05
    done
}

done_testing() {
    echo "1..$n_tests"
    [ "$n_failed" -eq 0 ]
    exit
}
