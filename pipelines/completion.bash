# shellcheck shell=bash
# completion.bash - bash completion of tokshard, ssmtrain, ckmerge and ssmeval
# SPDX-License-Identifier: MIT
#
# Commands and options come from the tool itself ('TOOL [COMMAND] --complete', '--help'), so a new one needs nothing
# here. Installed once under the name of each tool; works as well when read by 'source' in the tree.

# TOOL VARIABLE FOLDER END: the names of the presets or templates, from where the tool looks for them.
_ssmtools_names() {
    local exe dir file
    exe=$(readlink -f "$(type -P "$1")") || return
    exe=${exe%/*}
    for dir in "${!2:-}" "$exe/../share/ssmtools/$3" "$exe/../../../pipelines/$3"; do
        [[ $dir ]] || continue
        for file in "$dir"/*."$4"; do
            [[ -e $file ]] && file=${file##*/} && echo "${file%."$4"}"
        done
    done
}

_ssmtools() {
    local tool=${1/#\~/$HOME} cur=${COMP_WORDS[COMP_CWORD]} option='' before=$COMP_CWORD words
    local command=()
    COMPREPLY=()
    type -P "$tool" >/dev/null || return

    # '--name=value' comes as three words, '--name value' as two
    [[ $cur == = ]] && cur='' && ((before++))
    [[ ${COMP_WORDS[before - 1]} == = ]] && ((before--))
    ((before > 1)) && option=${COMP_WORDS[before - 1]}

    words=$("$tool" --complete 2>/dev/null) || return
    if [[ $words != --* ]]; then # a tool with commands
        if ((COMP_CWORD == 1)); then
            mapfile -t COMPREPLY < <(compgen -W "$words --help --version" -- "$cur")
            return
        fi
        command=("${COMP_WORDS[1]}")
        words=$("$tool" "${command[@]}" --complete 2>/dev/null) || return
    fi
    local choices=''
    if [[ $option == --model ]]; then
        choices=$(_ssmtools_names "$tool" SSM_MODELS models conf)
    elif [[ $option == --template ]]; then
        choices=$(_ssmtools_names "$tool" SSM_TEMPLATES templates template)
    elif [[ $option == --[a-z]* ]]; then # in the help a choice looks like '--name=a|b|c'
        choices=$("$tool" "${command[@]}" --help 2>/dev/null | sed -n "s/^.* $option=\([a-z0-9_-]*|[a-z0-9_|-]*\)\( .*\)*\$/\1/p")
    fi
    if [[ $choices ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${choices//|/ }" -- "$cur")
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
} && complete -o bashdefault -o default -F _ssmtools tokshard ssmtrain ckmerge ssmeval
