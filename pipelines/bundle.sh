#!/bin/sh
# bundle.sh - packs tools, tests and the libraries they need for a Linux machine without the packages ('make bundle')
# SPDX-License-Identifier: MIT
#
# usage: bundle.sh BUILD VERSION
#
# Makes BUILD/ssmtools-VERSION-ARCH.tar.xz. It unpacks anywhere, and everything in it starts by its 'run':
#   ./run ssmtrain --help;  ./run mpiexec -n 2 ssmtrain ...;  ./run pretrain.sh my.conf;  ./run check
# What is left to the machine: the C library (the version that is said in the end, or newer), sh, awk and the usual tools.
# mpiexec starts ranks on its own host only. Where a verbs library (InfiniBand) is installed, MPI finds it.
set -eu
fail() { echo "bundle.sh: $*" >&2; exit 1; }
[ $# -eq 2 ] || { echo "bundle.sh: usage: bundle.sh BUILD VERSION" >&2; exit 2; }
build=$1
version=$2
top=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$build/tests/ops" ] || fail "no tests in '$build/tests': run 'make tests'"
name=ssmtools-$version-$(uname -m)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/bundle.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP
umask 022
root=$tmp/$name

sh "$top/pipelines/install.sh" "$build" "$root" / "$version"
rm -r "$root/share/modulefiles" # says an absolute path
mkdir -p "$root/tests/cli" "$root/tests/gpu" "$root/tests/top" "$root/lib/ucx" "$root/lib/cxx"
for t in "$top"/tests/*.c; do
    t=$build/tests/$(basename "$t" .c)
    [ -f "$t" ] && [ -x "$t" ] && cp "$t" "$root/tests/"
done
cp "$top/tests/tap.sh" "$top/tests/tiny.sh" "$top/tests/training.sh" "$root/tests/"
for t in "$top"/tests/cli/*.t; do
    case ${t##*/} in
    0010-* | 80*) ;; # look at the source tree
    *) cp "$t" "$root/tests/cli/" ;;
    esac
done
cp "$top"/tests/gpu/*.t "$root/tests/gpu/"
# What the tests know as the top of the tree.
ln -s ../../share/man/man1 "$root/tests/top/tools"
ln -s ../../share/ssmtools/pipelines "$root/tests/top/pipelines"
ln -s ../../share/ssmtools/slurm "$root/tests/top/slurm"

for p in mpiexec.hydra hydra_pmi_proxy h5dump h5repack; do
    path=$(command -v $p) || fail "no $p (Debian packages mpich, hdf5-tools)"
    cp -L "$path" "$root/bin/$p"
done
cat >"$root/bin/mpiexec" <<'MPIEXEC'
#!/bin/sh
# mpiexec - starts ranks on this host, whatever the batch system says
exec "$(dirname "$(readlink -f "$0")")/mpiexec.hydra" -launcher fork "$@"
MPIEXEC

if [ -f "$build/lib/libssmcuda-emulated.so" ]; then cp "$build/lib/libssmcuda-emulated.so" "$root/lib/"; fi

# The libraries, theirs too. libc belongs to the machine; so do the verbs libraries, which go with its drivers, and
# without which the transports that need them stay away; so do CUDA's own, without which there is no --device cuda.
for p in "$root"/bin/* "$root"/tests/* "$root"/lib/*.so "$root"/lib/hdf5/plugin/*.so; do
    if [ -f "$p" ]; then ldd "$p" 2>/dev/null || true; fi # scripts have none
done | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 } $3 == "not" { print "lacks", $1 }' | sort -u >"$tmp/libs"
while read -r lib path; do
    case "$lib $path" in
    libcublas* | "lacks libcublas"*) continue ;;
    esac
    case $lib in
    lacks) fail "$path is not found" ;;
    libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libresolv.so.* | libutil.so.* | ld-linux*) ;;
    libstdc++.so.* | libgcc_s.so.*) cp -L "$path" "$root/lib/cxx/$lib" ;; # see 'run'
    *) cp -L "$path" "$root/lib/$lib" ;;
    esac
done <"$tmp/libs"
[ -e "$root/lib/libmpich.so.12" ] || fail "no libmpich among the libraries"
ucx=$(awk '$1 ~ /^libuct\.so/ { sub("/[^/]*$", "/ucx", $2); print $2 }' "$tmp/libs")
for f in ${ucx:+"$ucx"/lib*.so.0}; do
    [ ! -e "$f" ] || cp -L "$f" "$root/lib/ucx/"
done
for f in "$root"/bin/* "$root"/tests/* "$root"/lib/*.so* "$root"/lib/*/*.so* "$root"/lib/hdf5/plugin/*.so; do
    if [ -f "$f" ] && [ "$(head -c 4 "$f" | tail -c 3)" = ELF ]; then strip --strip-unneeded "$f"; fi
done
needs() { # FILE...: the newest C library that one of them asks for
    for f in "$@"; do
        [ ! -f "$f" ] || objdump -T "$f" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' || true
    done | sort -u -t _ -k 2 -V | tail -n 1
}
least=$(needs "$root"/bin/* "$root"/tests/* "$root"/lib/*.so*)
whole=$(needs "$root"/lib/*/*.so*)

cp "$top/pipelines/run.sh" "$root/run"
chmod 755 "$root/run" "$root/bin/mpiexec"

out=$build/$name.tar.xz
tar -C "$tmp" --sort=name --owner=0 --group=0 --numeric-owner -cf "$tmp/bundle.tar" "$name"
xz -6 -T2 -c "$tmp/bundle.tar" >"$out.tmp"
mv "$out.tmp" "$out"
size=$(wc -c <"$out")
echo "$out: $size bytes; needs $whole, or $least and a libstdc++ of the machine's own"
[ "$size" -lt $((64 << 20)) ] || fail "that is over 64 MiB"
