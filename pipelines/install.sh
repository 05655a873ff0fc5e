#!/bin/sh
# install.sh - copies what was built to its place ('make install')
# SPDX-License-Identifier: MIT
#
# usage: install.sh BUILD ROOT PREFIX VERSION
#   BUILD    build folder (build/release)
#   ROOT     where to write: DESTDIR and PREFIX in one
#   PREFIX   where the files will be found in the end; only the modulefile says it
#   VERSION  name of the modulefile
#
# Nothing is written outside ROOT, nothing needs to be root, and the umask holds.
set -eu
fail() { echo "install.sh: $*" >&2; exit "$code"; }
code=2
[ $# -eq 4 ] || fail "usage: install.sh BUILD ROOT PREFIX VERSION"
build=$1 root=$2 prefix=$3 version=$4
top=$(cd "$(dirname "$0")/.." && pwd)
case $prefix in /*) ;; *) fail "PREFIX '$prefix' does not begin with /" ;; esac
case $prefix in *[\{\}\\]*) fail "PREFIX '$prefix' has braces or a backslash" ;; esac
code=1
tools='tokshard ssmtrain ckmerge ssmeval'
for t in $tools; do
    [ -x "$build/bin/$t" ] || fail "no $t in '$build/bin': run 'make'"
done

# 'install -m' does not look at the umask by itself
mask=$(umask)
data=$(printf %o $((0644 & ~mask)))
program=$(printf %o $((0755 & ~mask)))
# put MODE FOLDER FILE...: into that folder of ROOT
put() {
    mode=$1 folder=$root/$2
    shift 2
    mkdir -p "$folder"
    install -m "$mode" "$@" "$folder/"
}

for t in $tools; do
    put "$program" bin "$build/bin/$t"
    put "$data" share/man/man1 "$top/tools/$t.1"
    mkdir -p "$root/share/bash-completion/completions"
    install -m "$data" "$top/pipelines/completion.bash" "$root/share/bash-completion/completions/$t"
done
put "$data" share/man/man5 "$top/tools/ssm-model.5"
for f in "$top"/pipelines/*.sh; do
    case ${f##*/} in
    install.sh | bundle.sh | run.sh) ;; # make these folders
    stage.sh) put "$data" share/ssmtools/pipelines "$f" ;; # is read by the others
    *) put "$program" share/ssmtools/pipelines "$f" ;;
    esac
done
for f in "$top"/slurm/* "$top"/slurm/bcp/*; do
    folder=share/ssmtools${f#"$top"}
    folder=${folder%/*}
    case ${f#"$top"/slurm/} in
    submit.sh | bcp/run.sh | bcp/launch.sh) put "$program" "$folder" "$f" ;;
    *.sh | *.sbatch | *.json | site.conf.example) put "$data" "$folder" "$f" ;; # recipes stay; so does a site.conf, which is this site's
    esac
done
put "$data" share/ssmtools/models "$top"/pipelines/models/*.conf
put "$data" share/ssmtools/templates "$top"/pipelines/templates/*.template
put "$data" lib/hdf5/plugin "$build/lib/libh5zstd.so"
[ ! -f "$build/lib/libssmcuda.so" ] || put "$data" lib "$build/lib/libssmcuda.so" # built where there is nvcc
put "$data" share/doc/ssmtools "$top/LICENSE" "$top/NEWS.md" "$top/README.md"

mkdir -p "$root/share/modulefiles/ssmtools"
module=$root/share/modulefiles/ssmtools/$version
cat >"$module.new" <<MODULE
#%Module1.0
# ssmtools $version
proc ModulesHelp { } {
    puts stderr "ssmtools: tokshard, ssmtrain, ckmerge, ssmeval; each has --help and a man page"
}
module-whatis "ssmtools $version: pre-train and evaluate state-space and hybrid language models"
conflict ssmtools
set prefix {$prefix}
prepend-path PATH \$prefix/bin
prepend-path MANPATH \$prefix/share/man
prepend-path HDF5_PLUGIN_PATH \$prefix/lib/hdf5/plugin
MODULE
mv "$module.new" "$module"
