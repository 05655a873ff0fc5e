#!/bin/sh
# 8000-install.t - 'make install' into a folder of its own, and the tools, presets, plugin and helpers found there
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tap.sh"
build=${SSM_BIN%/*}
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
tools='tokshard ssmtrain ckmerge ssmeval'
dest=$tap_dir/dest
prefix='/opt/ssm tools'
root=$dest$prefix
if ! command -v make >/dev/null || [ ! -e "$SSM_TOP/Makefile" ] || [ ! -e "$build/lib/libh5zstd.so" ]; then
    skip 'make install' 'no make, no source tree, or tools that were not built in it'
    done_testing
fi
# What was built is taken as it is, whatever the knobs were. The make that runs the tests does not speak to this one.
unset MAKEFLAGS MFLAGS MAKELEVEL
make_install() { timeout -k 5 60 make -s -C "$SSM_TOP" -o tools "O=$build" "$@" install; }

ls "$SSM_TOP/pipelines/models" >models
ls "$SSM_TOP/pipelines/templates" >templates
: >before
ok 'make install' 'make_install DESTDIR="$dest" PREFIX="$prefix" && [ "$(ls "$dest")" = opt ]'
ok 'nothing is written elsewhere' '
    [ ! -e "$prefix" ] && [ -z "$(find "$dest" -name "*.new")" ] && [ "$(ls -A "$dest/opt")" = "ssm tools" ] &&
    found=$(find /usr/local /opt /etc ${HOME:+"$HOME"} -xdev -newer before \( -name "*ssmt*" -o -name "tokshard*" -o -name "*h5zstd*" \) 2>/dev/null | grep -v "^$tap_dir")
    [ -z "$found" ] || { echo "$found"; exit 1; }'
ok 'files and their modes' '
    cd "$root" && for t in $tools; do
        [ -x bin/$t ] && [ -s share/man/man1/$t.1 ] && [ ! -x share/man/man1/$t.1 ] && [ -s share/bash-completion/completions/$t ] || { echo $t; exit 1; }
    done
    for f in LICENSE NEWS.md README.md; do cmp share/doc/ssmtools/$f "$SSM_TOP/$f" || exit 1; done
    for f in pretrain.sh finetune.sh report.sh; do [ -x share/ssmtools/pipelines/$f ] || exit 1; done
    [ -s share/ssmtools/pipelines/stage.sh ] && [ -s lib/hdf5/plugin/libh5zstd.so ] && ! ls share/ssmtools/pipelines | grep -e install -e bundle -e completion -e run &&
    ls share/ssmtools/models | cmp - "$tap_dir/models" && ls share/ssmtools/templates | cmp - "$tap_dir/templates" && [ -z "$(find . -perm /022 -print)" ]'
ok 'the umask holds' '
    (umask 077 && make_install DESTDIR="$tap_dir/private" PREFIX=/usr) && [ -z "$(find private -perm /077)" ] && [ -x private/usr/bin/ssmtrain ]'
ok 'over an older one; without DESTDIR' '
    printf old >"$root/bin/ssmtrain" && make_install DESTDIR="$dest" PREFIX="$prefix" && cmp "$root/bin/ssmtrain" "$SSM_BIN/ssmtrain" &&
    make_install PREFIX="$tap_dir/plain" && [ -x plain/bin/ckmerge ] && grep -q "^set prefix {$tap_dir/plain}" plain/share/modulefiles/ssmtools/*'
ok 'a PREFIX that is no absolute path; nothing built' '
    must_exit 2 make_install DESTDIR="$dest" PREFIX=here 2>err; grep -q "begin with /" err && [ ! -e "$SSM_TOP/here" ] &&
    must_exit 1 sh "$SSM_TOP/pipelines/install.sh" "$tap_dir/nowhere" "$tap_dir/x" /x 1 2>err && grep -q "run .make" err && [ ! -e x ]'

# ---- from there, and with nothing of the tree in sight ----
PATH=$root/bin:$PATH
unset SSM_MODELS SSM_TEMPLATES
awk 'BEGIN { for (i = 0; i < 500; i++) print "line", i, "of many" }' >text.txt
ok 'the tools find their presets' '
    tokshard encode -q -o shards text.txt && [ "$(command -v ssmtrain)" = "$root/bin/ssmtrain" ] &&
    for m in $(sed "s/\.conf//" models); do ssmtrain -n --model $m --batch 1 --seq-len 64 shards >plan && grep -q "^parameters=" plan || exit 1; done
    must_exit 2 ssmtrain -n --model nosuch shards 2>err'
ok 'the presets are theirs' '
    mkdir -p mine && printf "pattern = -\nd_model = 8\nd_ff = 8\n" >"$root/share/ssmtools/models/mine.conf" && ssmtrain -n --model mine --batch 1 shards | grep -qx "pattern=-"; code=$?
    rm "$root/share/ssmtools/models/mine.conf"; [ $code -eq 0 ]'
ok 'the tools find their templates' '
    echo "{\"prompt\": \"a\", \"completion\": \"b\"}" >talk.jsonl && [ "$(wc -l <templates)" -ge 5 ] && tokshard pack -q --template nemo -o talk talk.jsonl && [ "$(tokshard cat talk)" = "a b" ]'
ok 'the pipelines find the tools' '
    unset SSM_BIN; printf "work = w\ninput = text.txt\nencode = --split line\nvalid = 0.1\nmodel = hybrid-demo\n" >p.conf &&
    timeout -k 5 60 "$root/share/ssmtools/pipelines/pretrain.sh" p.conf data 2>log && grep -qF "$root/share/ssmtools/pipelines/../../../bin/tokshard" log && [ -e w/valid/index.h5 ]'
ok 'slurm/: modes, no site of ours; submit.sh works from there' '
    s=$root/share/ssmtools/slurm && for f in submit.sh bcp/run.sh bcp/launch.sh; do [ -x "$s/$f" ] || exit 1; done && for f in job.sh site.sh sweep.sh train.sbatch site.conf.example bcp/spec.sh bcp/example.json; do
        [ -s "$s/$f" ] && [ ! -x "$s/$f" ] || { echo $f; exit 1; }; done && [ "$(cd "$s" && find . -type f | wc -l)" -eq 13 ] && [ ! -e "$s/site.conf" ] &&
    unset SSM_BIN && printf "work = jobs\ninput = text.txt\nmodel = hybrid-demo\n" >j.conf && "$s/submit.sh" pretrain j.conf --site "$s/site.conf.example" --dry-run >out && grep -q "train.sbatch" out &&
    grep -qF "export SSM_HOME='\''${s%/slurm}'\''" jobs/slurm/train.sbatch && (SSM_HOME=${s%/slurm} && export SSM_HOME && . "$s/job.sh" && command -v job)'
if command -v h5dump >/dev/null; then
    # l i n e: the first ids of the text
    ok 'h5dump reads shards with the plugin, and not without' '
        HDF5_PLUGIN_PATH=$root/lib/hdf5/plugin h5dump -y -w 60 -d /tokens -c 4 shards/part-00000-of-00001.h5 >with && grep -q "108, 105, 110, 101" with &&
        ! HDF5_PLUGIN_PATH=$tap_dir/mine h5dump -y -w 60 -d /tokens -c 4 shards/part-00000-of-00001.h5 2>/dev/null | grep "108, 105"'
else
    skip 'h5dump reads shards with the plugin' 'no h5dump'
fi
if command -v man >/dev/null && command -v mandoc >/dev/null; then
    ok 'the man page' 'MANPATH=$root/share/man man -w ssmtrain | grep -qF "$root/share/man/man1/ssmtrain.1"'
fi

# ---- the modulefile ----
ok 'modulefile: name, prefix' '
    [ "$(ls "$root/share/modulefiles/ssmtools" | wc -l)" -eq 1 ] && cd "$root/share/modulefiles/ssmtools" &&
    head -n 1 [0-9]* | grep -q "^#%Module" && grep -qxF "set prefix {$prefix}" [0-9]* && ! grep -F "$dest" [0-9]* && ssmtrain --version | head -n 1 | grep -qF " $(ls)"'
if command -v tclsh >/dev/null; then
    cat >load.tcl <<'TCL'
foreach name {module-whatis conflict} { proc $name {args} {} }
proc prepend-path {name value} { puts "$name=$value" }
source [lindex $argv 0]
TCL
    ok 'modulefile: Tcl reads it' '
        tclsh load.tcl "$root"/share/modulefiles/ssmtools/* >got && printf "%s\n" "PATH=$prefix/bin" "MANPATH=$prefix/share/man" "HDF5_PLUGIN_PATH=$prefix/lib/hdf5/plugin" | cmp got -'
else
    skip 'modulefile: Tcl reads it' 'no tclsh'
fi

# ---- bash completion ----
if command -v bash >/dev/null; then
    cat >complete.bash <<'BASH'
# complete.bash TOOL WORD...: what the last word could become
source "$root/share/bash-completion/completions/$1" || exit 1
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_ssmtools "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
echo "${COMPREPLY[*]}"
BASH
    export root
    # gives WANTED WORD...
    gives() {
        want=$1
        shift
        got=$(timeout -k 5 20 bash complete.bash "$@" 2>&1)
        [ "$got" = "$want" ] || { echo "'$*' gives '$got', not '$want'"; return 1; }
    }
    ok 'completion: commands, options' '
        gives "encode pack train index cat check stat merge import export --help --version" tokshard "" && gives encode tokshard en &&
        gives "--specials --split --separator --skip-bad --shards" tokshard encode --s && gives "ls" ckmerge l && gives "--force" tokshard index --f'
    ok 'completion: an option of a tool without commands' 'gives --config ssmtrain --conf && gives "--lr --lr-decay --lr-decay-style --log-every" ssmtrain --l'
    ok 'completion: choices, after a blank and after =' '
        gives "file line para sep" tokshard encode --split "" && gives para tokshard encode --split = p &&
        gives "cosine constant" ssmtrain --schedule = c && gives "cosine linear inverse-sqrt wsd constant" ssmtrain --schedule ='
    ok 'completion: presets' '
        gives "$(sed "s/\.conf//" models | tr "\n" " " | sed "s/ \$//")" ssmtrain --model "" && gives hybrid-demo ssmtrain --model = hyb &&
        SSM_MODELS=$tap_dir/mine && export SSM_MODELS && : >mine/my-own.conf && gives my-own ssmtrain -o run --model my &&
        gives "nemo nemotron" tokshard pack --template nem'
    ok 'completion: options after a flag, nothing (so files) for operands and unknown values' '
        gives --skip-bad tokshard encode --ids --sk && gives "" ssmtrain --lr "" && gives "" tokshard encode te && gives "" ssmtrain "" && gives "" tokshard nosuch --x'
    ok 'completion: each tool has it by its name' '
        for t in $tools; do bash -c ". \"$root/share/bash-completion/completions/$t\" && complete -p $t" | grep -q _ssmtools || exit 1; done'
else
    skip 'completion' 'no bash'
fi
done_testing
