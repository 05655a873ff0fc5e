# shellcheck shell=sh disable=SC2154
# sweep.sh - one .conf for each combination of values, which share the sets of shards
# SPDX-License-Identifier: MIT
# Sourced by submit.sh.

# without OPTION WORD...: the words but for --OPTION VALUE and --OPTION=VALUE, on one line
without() {
    gone=--$1
    shift
    left=''
    while [ $# -gt 0 ]; do
        case $1 in
        "$gone") [ $# -lt 2 ] || shift ;;
        "$gone"=*) ;;
        *) left=$left${left:+ }$1 ;;
        esac
        shift
    done
    printf '%s\n' "$left"
}

# value KEY FILE: of a .conf
value() { sed -n "s/^#.*//; s/[[:space:]]#.*//; s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$2" | sed 's/[[:space:]]*$//'; }

# sweep_root WORK OPTION=VALUE,VALUE...: the folder of that sweep; another one has another
sweep_root() { printf '%s/sweep/%s\n' "$1" "$(shift && printf '%s_' "$@" | sed 's,[=/],-,g; s/_$//')"; }

# is_swept STAGE: does each combination have a stage of its own?
is_swept() { case $1 in train | merge | eval | curve | report) return 0 ;; *) return 1 ;; esac; }

# sweep_write CONF ROOT OPTION=VALUE,VALUE...: ROOT/NAME/NAME.conf for each combination, and their names in ROOT/confs
sweep_write() {
    base=$1 root=$2
    shift 2
    names='' # blanks between
    for axis; do
        case $axis in
        [a-z]*=?*) ;;
        *) usage_error "--sweep takes OPTION=VALUE,VALUE..., not '$axis'" ;;
        esac
        wider=''
        for v in $(printf %s "${axis#*=}" | tr , ' '); do
            for n in ${names:-.}; do wider="$wider ${n#.}${n:+:}${axis%%=*}=$v"; done
        done
        names=$wider
    done
    mkdir -p "$root"
    : >"$root/confs.tmp"
    for n in $names; do
        n=${n#:}
        name=$(printf %s "$n" | sed 's/:/_/g; s,[=/],-,g')
        dir=$root/$name
        words=$(value train "$base")
        for setting in $(printf %s "$n" | tr : ' '); do
            # shellcheck disable=SC2086
            words="$(without "${setting%%=*}" $words) --$setting"
        done
        mkdir -p "$dir"
        for made in train valid; do ln -sfn "../../../$made" "$dir/$made"; done
        case $(value tokenizer "$base") in train:*) ln -sfn ../../../tokenizer.json "$dir/tokenizer.json" ;; esac
        {
            grep -v '^[[:space:]]*\(work\|train\)[[:space:]]*=' "$base" || :
            printf 'work = %s\ntrain = %s\n' "$dir" "$words"
        } >"$dir/$name.conf.tmp"
        mv "$dir/$name.conf.tmp" "$dir/$name.conf"
        echo "$dir/$name.conf" >>"$root/confs.tmp"
    done
    mv "$root/confs.tmp" "$root/confs"
}

# sweep_rows KIND CONFS: the rows of --list on the standard input; of stages that each combination has, whether all of them are done
sweep_rows() {
    while IFS='	' read -r stage tasks ranks state; do
        if is_swept "$stage"; then
            tasks=$(wc -l <"$2") state='done'
            while read -r c; do
                "$here/$1.sh" "$c" --list </dev/null | grep -q "^$stage	.*	done\$" || state=todo
            done <"$2"
        fi
        printf '%s\t%s\t%s\t%s\n' "$stage" "$tasks" "$ranks" "$state"
    done
}
