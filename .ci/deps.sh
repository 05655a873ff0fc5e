#!/bin/sh
# deps.sh - installs the Debian packages that building, testing and the demo need
# SPDX-License-Identifier: MIT
#
# As root it installs what is missing; as another user it prints the one line that an administrator runs, and stops.
set -eu
packages='gcc g++ libc6-dev pkgconf libmpich-dev mpich libhdf5-dev hdf5-tools libzstd-dev zstd zlib1g-dev libxxhash-dev
libjansson-dev libpcre2-dev libutf8proc-dev libsentencepiece-dev libdnnl-dev libopenblas-dev libcmocka-dev perl gnuplot-nox
xz-utils mandoc shellcheck git'

command -v dpkg-query >/dev/null || { echo "deps: not a Debian system; please install: $packages" | tr '\n' ' ' >&2; echo >&2; exit 0; }
missing=
for p in $packages; do
    case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
    *' installed') ;;
    *) missing="$missing $p" ;;
    esac
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "deps: packages are missing; as root run:" >&2
    echo "apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
echo "deps: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get update >/dev/null && apt-get install -y --no-install-recommends $missing >/dev/null
}
