#!/bin/sh
# 3100-exchange.t - other people's models come in and go out with every bit; what cannot be held is refused by name
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034,SC2086  # ok evaluates its text, later
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tap.sh"

C=$SSM_BIN/ckmerge
MK=${SSM_TESTS:-$SSM_BIN/../tests}
G=$SSM_TOP/tests/golden

# one_line CODE TEXT COMMAND...: exits with CODE and says one line on stderr, which holds TEXT.
one_line() {
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >/dev/null || { cat err; return 1; }
    test "$(wc -l <err)" -eq 1 && grep -qF -e "$text" err || { cat err; return 1; }
}
quiet() { "$C" "$@" >/dev/null 2>&1; }
# refused TEXT SOURCE [OPTION...]: an import that says TEXT and leaves nothing
refused() {
    text=$1 source=$2
    shift 2
    rm -rf no
    one_line 1 "$text" "$C" import "$@" -o no "$source" && test ! -e no
}
# configured CASE SED: a copy of the folder with another config.json
configured() { rm -rf other && cp -r "$G/$1" other && sed "$2" "$G/$1/config.json" >other/config.json; }
# edited CASE CHANGE...: a copy with other tensors
edited() {
    case_=$1
    shift
    rm -rf other && "$MK/mkarchive" edit "$G/$case_" other "$@" && cp "$G/$case_/config.json" other
}
family() { case $1 in *-ssm) echo mamba-ssm ;; megatron-mamba2) echo mamba2 ;; megatron-gpt) echo nemotron ;; megatron-swiglu) echo bamba ;; megatron-*) echo nemotron_h ;; *) echo "${1%%-*}" ;; esac; }

cases=$(cd "$G" && for f in */logits.bin; do echo "${f%/*}"; done)
for n in $cases; do
    ok "$n: imported, whole, in our names" '
        "$C" import -q -o in/$n "$G/$n" && quiet verify in/$n && "$C" ls in/$n >ls && grep -q "^model/embeddings.weight	" ls &&
        grep -q "^model/layers.0.norm.weight	" ls && grep -q "^model/layers.1.norm.weight	" ls && grep -q "^model/norm_f.weight	" ls &&
        ! grep "^[^#]" ls | grep -v "^model/\(embeddings\|norm_f\|lm_head\|layers\.[0-9]*\.\(norm\|mixer\)\)\." && ! grep -q "^#state" ls'
    case $n in
    megatron-*)
        ok "$n: comes out as $(family $n), and back in as the same" '
            "$C" export -q -o out/$n in/$n && grep -q "\"model_type\": \"$(family $n)\"" out/$n/config.json &&
            "$C" import -q -o again/$n out/$n && "$C" compare --model-only in/$n again/$n >diff || ! grep ^tensor diff' ;;
    *)
        ok "$n: comes out bit for bit, and back in as the same" '
            "$C" export -q --to $(family $n) -o out/$n in/$n && "$MK/mkarchive" same "$G/$n" out/$n &&
            "$C" import -q -o again/$n out/$n && quiet compare in/$n again/$n' ;;
    esac
done
ok 'without --to the family is the one that can hold it' '
    for n in bamba nemotron-bias recurrent_gemma nemotron_h mamba-bias mamba2-groups mamba-ssm; do
        "$C" export -q -f -o out/chosen in/$n && case $n in mamba-ssm) f=mamba ;; *) f=$(family $n) ;; esac &&
        grep -q "\"model_type\": \"$f\"" out/chosen/config.json || { echo $n; exit 1; }
    done'

# ---- other names for the same ----
ok 'mamba-ssm in, transformers out, and back' '
    for n in mamba mamba2; do
        "$C" export -q --to $n -o x/$n in/$n-ssm && "$C" import -q -o y/$n x/$n && "$C" export -q --to mamba-ssm -o z/$n y/$n &&
        "$MK/mkarchive" same z/$n "$G/$n-ssm" && grep -q "\"vocab_size\": 64" x/$n/config.json &&
        "$MK/mkarchive" edit z/$n w/$n drop=lm_head.weight && "$MK/mkarchive" same w/$n x/$n backbone.embedding.=backbone.embeddings. || exit 1
    done'
ok 'the names of the program in memory: model. for backbone.' '
    edited nemotron_h prefix=backbone.=model. && "$C" import -q -o renamed other && quiet compare renamed in/nemotron_h'
ok 'the old name of the embedding in a file of transformers' '
    edited mamba prefix=backbone.embeddings.=backbone.embedding. && "$C" import -q -o oldname other && quiet compare oldname in/mamba'
ok 'a norm of LayerNorm: mamba-ssm holds it, mamba does not' '
    edited mamba-ssm add=backbone.norm_f.bias=24 add=backbone.layers.0.norm.bias=24 add=backbone.layers.1.norm.bias=24 &&
    sed -i "s/\"rms_norm\": true/\"rms_norm\": false/" other/config.json && "$C" import -q -o ln other &&
    "$C" ls ln | grep -q "^#config.norm=layer$" && one_line 1 "mamba has no place for '\''norm'\'' layer" "$C" export --to mamba -o no ln &&
    "$C" export -q -o lnout ln && "$MK/mkarchive" same other lnout'
ok 'Megatron: queries, keys and values of each group find their places' '
    "$C" ls in/megatron-gpt >ls && grep -q "^model/layers.0.mixer.q_proj.weight	[a-z0-9]*	32x32	" ls &&
    grep -q "^model/layers.2.mixer.k_proj.weight	[a-z0-9]*	16x32	" ls && grep -q "^#config.norm=layer1p" ls && grep -q "^#config.rotary_dim=4" ls'

ok 'nemotron_h ties nothing: a tied model gets its head twice' '
    "$C" export -q --to nemotron_h -o twice in/mamba2 && "$MK/mkarchive" edit twice once drop=lm_head.weight &&
    "$MK/mkarchive" same once "$G/mamba2" && "$MK/mkarchive" ls twice | grep -q "^lm_head.weight	BF16	61x32" &&
    "$C" import -q -o untied twice && "$C" ls untied | grep -q "^#config.tied=false"'

# ---- parts, types, shards ----
ok 'any number of parts' '
    "$C" import -q --parts 5 -o five "$G/bamba" && test "$(find five -name "part-*" | wc -l)" -eq 5 && quiet compare five in/bamba'
ok 'types: stored, f32; bf16 and f16 leave what must be fp32' '
    for t in f32 bf16 f16; do "$C" export -q --dtype $t -o t/$t in/mamba2 && "$MK/mkarchive" ls t/$t >ls.$t || exit 1; done &&
    ! grep -v "	F32	" ls.f32 && grep -q "^backbone.embeddings.weight	BF16	" ls.bf16 && grep -q "^backbone.embeddings.weight	F16	" ls.f16 &&
    for t in bf16 f16; do test "$(grep -c "\(A_log\|D\|dt_bias\)	F32	" ls.$t)" -eq 6 && test "$(grep -c "	F32	" ls.$t)" -eq 6 || exit 1; done &&
    "$C" import -q -o t/in t/f32 && quiet compare --tolerance 1e-30 t/in in/mamba2 && grep -q "\"torch_dtype\": \"bfloat16\"" t/bf16/config.json'
ok 'shards, and one file in their place' '
    "$C" export -q --shard-size 20k -o sh in/nemotron_h && test "$(find sh -name "model-0*" | wc -l)" -ge 4 && test ! -e sh/model.safetensors &&
    "$MK/mkarchive" same "$G/nemotron_h" sh && one_line 1 "--force" "$C" export -o sh in/nemotron_h &&
    "$C" export -q -f -o sh in/nemotron_h && "$MK/mkarchive" same "$G/nemotron_h" sh && test ! -e sh/model-00001-of-00005.safetensors'
ok 'a source that is a file' '"$C" import -q -o file "$G/mamba2/model.safetensors" && quiet compare file in/mamba2'

# ---- tensors that are not as they should be ----
ok 'a missing tensor' '
    edited mamba2 drop=backbone.layers.1.mixer.A_log && refused "other: no tensor '\''backbone.layers.1.mixer.A_log'\''" other &&
    edited bamba drop=model.final_layernorm.weight && refused "other: no tensor '\''model.final_layernorm.weight'\''" other &&
    edited nemotron drop=lm_head.weight && refused "other: no tensor '\''lm_head.weight'\''" other'
ok 'a wrong shape: both are told' '
    edited mamba2 drop=backbone.norm_f.weight add=backbone.norm_f.weight=31 && refused "'\''backbone.norm_f.weight'\'' is 31, by the configuration 32" other &&
    configured recurrent_gemma "s/\"vocab_size\": 61/\"vocab_size\": 62/" && refused "'\''model.embed_tokens.weight'\'' is 61x24, by the configuration 62x24" other &&
    edited mamba2 drop=backbone.norm_f.weight add=backbone.norm_f.weight=32x1 && refused "is 32x1, by" other'
ok 'a tensor too many' '
    edited mamba2 add=backbone.layers.1.mixer.extra=3 && refused "no place for tensor '\''backbone.layers.1.mixer.extra'\''" other &&
    edited nemotron_h add=backbone.layers.3.mixer.q_proj.bias=24 && refused "q_proj.bias" other'
ok 'tensors that say nothing are passed over' '
    edited nemotron add=model.layers.0.self_attn.rotary_emb.inv_freq=3 && "$C" import -q -o freq other && quiet compare freq in/nemotron'
ok 'a type that is no float' 'edited mamba2 type=backbone.norm_f.weight && refused "'\''backbone.norm_f.weight'\'' is of type I16" other'
ok 'a tied head: the same bytes, or refused' '
    edited mamba-ssm poke=lm_head.weight && refused "'\''lm_head.weight'\'' differs from '\''backbone.embedding.weight'\''" other &&
    edited mamba-ssm drop=lm_head.weight && "$C" import -q -o headless other && quiet compare headless in/mamba-ssm &&
    edited mamba2 add=lm_head.weight=61x32 && refused "'\''lm_head.weight'\'' is of type F32" other'
ok 'a truncated file, a missing shard' '
    rm -rf other && cp -r "$G/mamba2" other && head -c 9000 "$G/mamba2/model.safetensors" >other/model.safetensors && refused "other/model.safetensors" other &&
    rm -rf other && cp -r "$G/nemotron_h" other && rm other/model-00002-of-00004.safetensors && refused "model-00002-of-00004" other'

# ---- configurations ----
ok 'no configuration, an unknown one, one that is none' '
    rm -rf other && cp -r "$G/mamba2" other && rm other/config.json && refused "other/config.json" other &&
    configured mamba2 "s/\"mamba2\"/\"falcon_mamba\"/" && refused "other/config.json: model_type '\''falcon_mamba'\'' is none of mamba, mamba2" other &&
    configured mamba2 "/\"model_type\"/d" && refused "no model_type (--as" other && "$C" import -q --as mamba2 -o as other && quiet compare as in/mamba2 &&
    configured mamba2 "s/^{/[/" && refused "other/config.json" other && echo "[1]" >other/config.json && refused "not an object" other &&
    refused "family '\''lamp'\'' is none of" "$G/mamba" --as lamp && refused "no arguments of Megatron-LM" "$G/mamba" --as megatron'
# CASE, sed that changes its config.json, what is said
while IFS='|' read -r case_ change text; do
    ok "$case_: $text" 'configured $case_ "$change" && refused "$text" other && grep -q "other/config.json: " err'
done <<'REFUSALS'
mamba|s/"hidden_act": "silu"/"hidden_act": "gelu"/|'hidden_act' is "gelu", which is not supported
mamba|/"hidden_size"/d|'hidden_size' is missing
mamba|s/"use_bias": false/"use_bias": "no"/|'use_bias' is
mamba|s/"use_cache"/"quantization_config": {"bits": 4}, "use_cache"/|'quantization_config' is {"bits":
mamba|s/"state_size": 5/"state_size": 0/|'state_size' is 0
mamba2|s/"num_heads": 8/"num_heads": 9/|is not 9 heads of 8
mamba2|s/"use_cache"/"rms_norm": false, "use_cache"/|'rms_norm' is false
mamba2|s/Infinity/-1/|'time_step_limit' is -1
mamba2|s/Infinity/0/|no range of time steps
mamba2|s/"use_cache"/"novelty": 3, "use_cache"/|'novelty' is 3, a key that is not known here (--ignore passes over it)
mamba-ssm|s/"d_intermediate": 0/"d_intermediate": 64/|'d_intermediate' is 64
mamba-ssm|s/"attn_layer_idx": \[\]/"attn_layer_idx": [1]/|'attn_layer_idx' is [1]
mamba-ssm|s/Mamba1/Mamba3/|'ssm_cfg': 'layer' is "Mamba3"
mamba-ssm|s/"d_state": 5/"d_state": 5, "rmsnorm2": true/|'ssm_cfg': 'rmsnorm2' is true
mamba2-ssm|s/"d_state": 10/"d_state": 10, "norm_before_gate": true/|'norm_before_gate' is true
nemotron_h|s/"mlp",/"moe",/|is "moe", which is not supported
nemotron_h|s/"sliding_window": null/"sliding_window": 128/|'sliding_window' is 128
nemotron_h|s/"num_nextn_predict_layers": 0/"num_nextn_predict_layers": 1/|'num_nextn_predict_layers' is 1
nemotron_h-80|s/\*M-/*E-/|is 'E', which is not supported
nemotron_h-80|s/"relu2"/"tanh"/|'mlp_hidden_act' is "tanh"
nemotron_h-80|s/"num_hidden_layers": 3/"num_hidden_layers": 4/|'num_hidden_layers' 4
nemotron-bias|s/"rope_theta"/"rope_scaling": {"type": "linear", "factor": 2}, "rope_theta"/|'rope_scaling' is {"type":
nemotron|s/"rope_type": "default"/"rope_type": "yarn"/|'rope_parameters': 'rope_type' is "yarn"
nemotron|s/"partial_rotary_factor": 0.5/"partial_rotary_factor": 0.3/|'partial_rotary_factor' 0.3
bamba|s/"mamba_expand": 2/"mamba_expand": 3/|'mamba_expand' 3
bamba|s/"attn_layer_indices": \[/"attn_layer_indices": [7,/|'attn_layer_indices' has a value that is not 0 to 2
recurrent_gemma|s/"recurrent",/"convolution",/|'block_types' has "convolution"
recurrent_gemma|s/gelu_pytorch_tanh/gelu/|'hidden_activation' is "gelu"
recurrent_gemma|s/"logits_soft_cap": 30.0/"logits_soft_cap": 0.0/|'logits_soft_cap' is
REFUSALS
ok 'what changes nothing is passed over, and --ignore passes over more' '
    configured mamba2 "s/\"use_cache\"/\"novelty\": 3, \"dull\": null, \"off\": false, \"empty\": [], \"_private\": 9, \"top_k\": 50, \"use_cache\"/" &&
    refused "'\''novelty'\'' is 3" other && "$C" import -q --ignore other,novelty -o ign other && quiet compare ign in/mamba2'
ok 'what is refused is not passed over by --ignore' '
    configured mamba2 "s/\"silu\"/\"relu\"/" && refused "'\''hidden_act'\''" other --ignore hidden_act'
ok 'eos_token_id: a number, the first of a list, none' '
    "$C" ls in/mamba2 | grep -qx "#config.eod=2" && configured mamba2 "s/\"eos_token_id\": 2/\"eos_token_id\": [5, 6]/" &&
    "$C" import -q -o eos1 other && "$C" ls eos1 | grep -qx "#config.eod=5" &&
    configured mamba2 "s/\"eos_token_id\": 2/\"eos_token_id\": null/" && "$C" import -q -o eos2 other && "$C" ls eos2 | grep -qx "#config.eod=-1"'

# ---- models that a family has no place for ----
ok 'export: what there is no place for is told' '
    one_line 1 "mamba2: no place for '\''pattern'\'' SS" "$C" export --to mamba2 -o no in/mamba &&
    one_line 1 "nemotron_h has no place for '\''dt_max'\'' 0.2" "$C" export --to nemotron_h -o no in/mamba2-groups &&
    one_line 1 "mamba-ssm has no place for '\''norm_eps'\'' 0.01" "$C" export --to mamba-ssm -o no in/mamba-bias &&
    one_line 1 "no place for" "$C" export --to bamba -o no in/recurrent_gemma &&
    one_line 1 "is read only" "$C" export --to megatron -o no in/mamba && one_line 1 "is none of" "$C" export --to lamp -o no in/mamba && test ! -e no'
ok 'export: a checkpoint that is no model of ours' '
    "$MK/mkckpt" odd 1 1 && one_line 1 "odd: " "$C" export -o no odd && test ! -e no'
ok 'usage, and folders that are taken' '
    one_line 2 "no output" "$C" import "$G/mamba" && one_line 2 "no output" "$C" export in/mamba && one_line 2 "dtype" "$C" export --dtype f8 -o no in/mamba &&
    one_line 1 "--force" "$C" import -o in/mamba "$G/mamba" && "$C" import -q -f -o in/mamba "$G/mamba" && one_line 1 "--force" "$C" export -o out/mamba in/mamba &&
    one_line 1 "both input and output" "$C" export -f -o in/mamba in/mamba && cp -r "$G/mamba" self && one_line 1 "both" "$C" import -o self self &&
    one_line 1 "No such file" "$C" import -o no nowhere && one_line 1 "No such file" "$C" export -o no nowhere'
ok 'a full disk: one line, no model' '
    (trap "" XFSZ; ulimit -f 20; one_line 1 "full" "$C" import -q -o full "$G/bamba" && one_line 1 "fullx" "$C" export -q --dtype f32 -o fullx in/bamba) &&
    test ! -e full/index.h5 && test ! -e fullx/model.safetensors && test -z "$(find full fullx -name "*.tmp.*")"'

# ---- memory ----
if "$C" --version | grep -q "build: san"; then
    skip 'a large tensor goes through in small blocks' 'the sanitizers need memory themselves'
else
    ok 'a large tensor goes through in small blocks' '
    rm -rf other && "$MK/mkarchive" edit "$G/mamba2" other drop=backbone.embeddings.weight add=backbone.embeddings.weight=600000x32 &&
    sed "s/\"vocab_size\": 61/\"vocab_size\": 600000/" "$G/mamba2/config.json" >other/config.json &&
    "$C" import -o large other 2>err && "$C" export -o largeout large 2>>err && "$MK/mkarchive" same other largeout &&
    awk "/peak memory/ { for (i = 1; i < NF; i++) if (\$i == \"memory\" && (\$(i+1) + 0 > 60 || \$(i+2) !~ /^MB/)) bad = 1; n++ } END { exit bad || n != 2 }" err ||
    { cat err; exit 1; }'
fi

done_testing
