#!/bin/sh
# lint.sh - checks that need no run: shell scripts, man pages, headers that compile alone, formatting ('make lint')
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
bad=0
note() { echo "lint: $*" >&2; bad=1; }

# shellcheck disable=SC2046
shellcheck -x $(git ls-files -c -o --exclude-standard '*.sh' '*.bash' .ci/run) || note 'shellcheck'
# The tests' commands stand in strings, which shellcheck cannot see into.
# shellcheck disable=SC2046
shellcheck -x -e SC2016,SC2034,SC2154,SC1091,SC2086,SC2317,SC2015 $(git ls-files -c -o --exclude-standard 'tests/*.t') || note 'shellcheck of tests'
for page in tools/*.[15]; do
    mandoc -T lint -W warning "$page" || note "$page"
done
flags="-std=c11 -D_POSIX_C_SOURCE=200809L -fopenmp -I. -Ikernels -Itests -isystem /usr/include/hdf5/serial -fsyntax-only -Wall -Wextra"
for header in $(git ls-files -c -o --exclude-standard '*.h'); do
    case $header in common/base/version.h | kernels/emulate.h) continue ;; esac # needs the build's buildinfo.h; is C++
    # shellcheck disable=SC2086
    echo "#include \"$header\"" | gcc $flags -x c - || note "$header does not compile alone"
done
if command -v clang-format >/dev/null; then
    # shellcheck disable=SC2046
    clang-format --dry-run -Werror $(git ls-files -c -o --exclude-standard '*.c') 2>&1 | grep -c warning: >/tmp/lint.$$ || true
    n=$(cat /tmp/lint.$$)
    rm -f /tmp/lint.$$
    [ "$n" -eq 0 ] || echo "lint: $n places differ from 'make format' (not an error)" >&2
fi
git grep -nIE '[[:space:]]+$' -- ':!*.md' ':!tests/golden' >&2 && note 'white space at line ends'
exit $bad
