# shellcheck shell=sh disable=SC2154,SC2034
# stage.sh - what the pipelines share: reading a .conf, running a stage once, launching ranks
# SPDX-License-Identifier: MIT
# Sourced by the pipelines (POSIX sh). Needs $here: the folder of the pipelines.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() { say "$*"; exit 1; }
usage_error() { say "$*"; exit 2; }

# Tools: $SSM_BIN, the installed ones, or those built in this tree.
find_tools() {
    if [ -n "${SSM_BIN:-}" ]; then bin=$SSM_BIN
    elif [ -x "$here/../../../bin/ssmtrain" ]; then bin=$here/../../../bin
    else bin=$here/../build/release/bin
    fi
    for t in tokshard ssmtrain ckmerge ssmeval; do
        [ -x "$bin/$t" ] || fail "no $t in '$bin' (SSM_BIN says where the tools are; 'make' builds them)"
    done
}

# conf_read FILE KEY...: reads 'key = value' lines; only the named keys are known; each becomes conf_KEY.
conf_read() {
    conf_file=$1
    shift
    [ -r "$conf_file" ] || usage_error "cannot read '$conf_file'"
    conf_seen=' '
    conf_line=0
    while IFS= read -r line || [ -n "$line" ]; do
        conf_line=$((conf_line + 1))
        line=${line%%#*}
        case $line in
        *[![:space:]]*) ;;
        *) continue ;;
        esac
        case $line in
        *=*) ;;
        *) usage_error "$conf_file:$conf_line: '$line' is not 'key = value'" ;;
        esac
        key=$(printf '%s' "${line%%=*}" | tr -d '[:space:]')
        value=$(printf '%s' "${line#*=}" | sed 's/^[[:space:]]*//; s/[[:space:]]*$//')
        known=no
        for k in "$@"; do [ "$k" = "$key" ] && known=yes; done
        [ $known = yes ] || usage_error "$conf_file:$conf_line: unknown key '$key'"
        case $conf_seen in
        *" $key "*) usage_error "$conf_file:$conf_line: key '$key' stands here twice" ;;
        esac
        conf_seen="$conf_seen$key "
        eval "conf_$key=\$value"
    done <"$conf_file"
}

# need KEY...: these must be set by the .conf.
need() {
    for k in "$@"; do
        eval "v=\${conf_$k:-}"
        [ -n "$v" ] || usage_error "$conf_file: '$k' is missing"
    done
}

# ranks N CMD...: runs CMD with N MPI ranks; one rank needs no launcher. $SSM_MPIEXEC replaces 'mpiexec'.
ranks() {
    n=$1
    shift
    if [ "$n" -gt 1 ]; then "${SSM_MPIEXEC:-mpiexec}" -n "$n" "$@"; else "$@"; fi
}

# stage NAME DONE-FILE CMD...: runs CMD unless DONE-FILE is there, which CMD's success must leave behind. Ends the pipeline
# with CMD's code when it fails; 75 (saved, run me again) passes through.
stage() {
    name=$1
    done_file=$2
    shift 2
    if [ -e "$done_file" ]; then
        say "$name: done already"
        return 0
    fi
    say "$name: $*"
    code=0
    "$@" || code=$?
    [ $code -eq 0 ] || { say "$name: exit code $code"; exit $code; }
    [ -e "$done_file" ] || fail "$name: ended well but left no '$done_file'"
}
