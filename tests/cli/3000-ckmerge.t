#!/bin/sh
# 3000-ckmerge.t - checkpoints looked into, checked, compared, merged and split; damage is named
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034  # ok evaluates its text, later
. "${0%/*}/../tap.sh"

C=$SSM_BIN/ckmerge
MK=${SSM_TESTS:-$SSM_BIN/../tests}/mkckpt

# one_line CODE TEXT COMMAND...: exits with CODE and says one line on stderr, which holds TEXT.
one_line() {
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >/dev/null || { cat err; return 1; }
    test "$(wc -l <err)" -eq 1 && grep -qF -e "$text" err || { cat err; return 1; }
}
no_litter() { test -z "$(find "$1" -name '*.tmp.*' 2>/dev/null)"; }
quiet() { "$C" "$@" >/dev/null 2>&1; }
# change FILE OFFSET: another byte there
change() {
    old=$(od -An -tu1 -j"$2" -N1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $(((old + 1) % 256)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
cut_file() { head -c "$2" "$1" >short && mv short "$1"; }

"$MK" one 1 1 && "$MK" three 1 3 && "$MK" other 2 3 || exit 1

# ---- ls, verify ----
ok 'ls: configuration, state, tensors' '
    "$C" ls three >out && grep -qx "#config.d_model=16" out && grep -qx "#state.step=1" out &&
    grep -qx "model/embeddings.weight	f32	101x16	3" out && grep -qx "#members=3" out &&
    test "$(grep -vc "^#" out)" -eq 11 && grep -qx "#parameters=2932" out'
ok 'verify: silent on stdout, all is well' 'test -z "$("$C" verify -q one three)"'
ok 'a checkpoint that is none' '
    mkdir void && : >file && one_line 1 "void" "$C" ls void && one_line 1 "No such file" "$C" ls nowhere &&
    one_line 1 "file" "$C" ls file && one_line 1 "no index.h5" "$C" verify void'
# Every kind of layer, with the tensors of each that stay fp32.
cat >kinds.conf <<CONF
pattern = MSRL*-
d_model = 32
n_heads = 4
headdim = 8
d_state = 8
chunk = 16
attn_heads = 4
attn_kv_heads = 2
attn_headdim = 8
window = 16
d_inner = 64
dt_rank = 2
lru_width = 32
lru_blocks = 4
d_ff = 48
tied = true
CONF
"$MK" kinds 4 3 ./kinds.conf && "$MK" twin 5 2 ./kinds.conf || exit 1

ok 'usage' '
    one_line 2 "which command" "$C" && one_line 2 "unknown command" "$C" lost && one_line 2 "--lost" "$C" ls --lost one &&
    one_line 2 "too few" "$C" ls && one_line 2 "no output" "$C" merge one &&
    one_line 2 "parts" "$C" split --parts 0 -o x one && one_line 2 "f64" "$C" merge --dtype f64 -o x one &&
    one_line 2 "stored" "$C" average --dtype stored -o x one one && one_line 2 "no output" "$C" average one one &&
    one_line 2 "too few" "$C" average -o x one && one_line 2 "tolerance" "$C" compare --tolerance -1 one one'
ok 'a full standard output' '
    test ! -e /dev/full || { must_exit 1 "$C" ls one >/dev/full 2>err && grep -q "standard output" err; }'

# ---- compare ----
ok 'compare: the layout does not matter' 'quiet compare one three && quiet compare three one'
ok 'compare: what differs is said' '
    must_exit 1 "$C" compare one other >out && grep -q "^state	step	-	-	1 / 2$" out &&
    grep -q "^tensor	model/norm_f.weight	16	[0-9.]*	.0. " out && test "$(grep -c ^tensor out)" -eq 11'
ok 'compare: tolerance' '
    must_exit 1 "$C" compare --tolerance 100 one other >out && ! grep -q ^tensor out &&
    quiet compare --tolerance 100 --model-only one other && must_exit 1 quiet compare --tolerance 0.1 --model-only one other'
ok 'compare: shapes and names' '
    "$MK" p 1 1 model/a=3x4 model/b=5 && "$MK" q 1 1 model/a=4x3 model/c=5 && must_exit 1 "$C" compare p q >out &&
    grep -q "model/a.*another shape" out && grep -q "model/b.*only in the first" out &&
    grep -q "model/c.*only in the second" out && test "$(grep -c ^tensor out)" -eq 3'

# ---- merge, split ----
ok 'merge(split(x)) = x' '
    for n in 1 2 7 64; do
        quiet split -o s$n --parts $n three && quiet merge -o m$n s$n && test "$(find s$n -name "part-*" | wc -l)" -eq $n &&
        quiet compare one s$n && quiet compare one m$n && quiet verify s$n m$n || exit 1
    done'
ok 'split shares evenly' '
    "$C" split -n -o none --parts 4 three >out && test ! -e none &&
    awk "/^[0-9]/ { s += \$3; if (\$3 < 1500 || \$3 > 1660) bad = 1 } END { exit bad || s != 6316 }" out'
if command -v h5dump >/dev/null; then
    ok 'the history grows by a line' '
    test "$(h5dump -w 0 -a /history m7/index.h5 | grep -c "ckmerge")" -ge 1 &&
    h5dump -w 0 -a /history m7/index.h5 | grep -q "mkckpt.* three 1 3"'
    ok 'plain HDF5 tools see the whole' '
    h5dump -d /model/norm_f.weight s7/index.h5 | sed 1d >a && h5dump -d /model/norm_f.weight one/index.h5 | sed 1d >b && test -s a && cmp a b &&
    ! grep -q "0, 0, 0" a'
else
    skip 'the history grows by a line' 'no h5dump'
    skip 'plain HDF5 tools see the whole' 'no h5dump'
fi
ok 'a flipped bit is not merged, split or carried on' '
    cp -r three flip && f=$(ls flip/part-* | head -n 1) && printf "\\377" | dd of="$f" bs=1 seek=5003 conv=notrunc 2>/dev/null &&
    one_line 1 "checksum" "$C" merge -q -o fm flip && one_line 1 "checksum" "$C" split -q --parts 2 -o fs flip && test ! -e fm/index.h5 && test ! -e fs/index.h5'
ok '--drop-optimizer leaves the model' '
    quiet merge --drop-optimizer -o model three && "$C" ls model >out && ! grep -q "^optim" out && ! grep -q "^#state" out &&
    ! grep -q "^state" out && test "$(grep -c ^model out)" -eq 6 && quiet compare --model-only model one &&
    must_exit 1 quiet compare model one'
ok '--drop-optimizer in parts' '
    quiet split --drop-optimizer --parts 3 -o model3 three && "$C" ls model3 >out && ! grep -qE "^(optim|state|#state)" out &&
    test "$(grep -c ^model out)" -eq 6 && quiet compare model3 model'

# ---- element types ----
types() { "$C" ls "$1" | awk -F '\t' '!/^#/ { print $1, $2 }'; }
"$MK" mixed 6 3 model/a=30x40:bf16 model/b=70:f16 model/c=20x3x4 optim/m/a=30x40 && "$MK" large 6 2 './kinds.conf*1e6' || exit 1
for d in bf16 f16; do
    ok "--dtype $d: all but what must be fp32" "
        quiet merge --dtype $d -o k$d kinds && types k$d | sort >have && test \"\$(grep -c ' $d\$' have)\" -gt 30 &&
        grep ' f32\$' have | sed 's/ .*//; s/.*mixer\.//' | sort >whole &&
        printf '%s\n' A_log A_log D D dt_bias dt_proj.bias rg_lru.a_param | sort | cmp - whole &&
        must_exit 1 quiet compare kinds k$d && quiet compare --tolerance 0.02 kinds k$d &&
        must_exit 1 \"\$C\" compare kinds k$d >out && grep -q '^dtype	model/norm_f.weight	-	-	f32 / $d\$' out && ! grep '^dtype.*D	' out"
    ok "$d -> merge, split, merge: the same bytes" "
        quiet merge -o again$d k$d && cmp k$d/part-* again$d/part-* && quiet split --parts 7 -o parts$d k$d &&
        quiet merge --dtype stored -o back$d parts$d && cmp k$d/part-* back$d/part-* && quiet compare k$d parts$d"
    ok "$d -> f32 -> $d: the same bytes" "
        quiet merge --dtype f32 -o wide$d k$d && ! types wide$d | grep -v ' f32\$' && quiet merge --dtype $d -o narrow$d wide$d &&
        cmp k$d/part-* narrow$d/part-* && quiet compare --tolerance 1e-30 wide$d k$d"
done
ok 'types are kept with the optimizer' '
    quiet merge -o mixed1 mixed && quiet split --parts 4 -o mixed4 mixed && quiet compare mixed mixed1 && quiet compare mixed4 mixed1 &&
    types mixed4 >have && types mixed | cmp - have && grep -qx "model/a bf16" have && grep -qx "model/b f16" have && grep -qx "model/c f32" have'
ok 'fewer bytes, and the plan says so' '
    "$C" merge -n --dtype bf16 -o no kinds >out && awk "!/^#/ { exit !(\$3 == 34108 && \$4 == 2 * (34108 + 4 * 3 + 64 * 10 + 32)) }" out &&
    test ! -e no && test $(($(cat kbf16/part-* | wc -c) + 60000)) -lt "$(cat widebf16/part-* | wc -c)"'
ok 'a run with its optimizer is not cast' '
    one_line 1 "needs --drop-optimizer" "$C" merge --dtype f32 -o no mixed && test ! -e no &&
    quiet merge --drop-optimizer --dtype f32 -o mixedf mixed && test "$(types mixedf | grep -c "f32$")" -eq 3 &&
    quiet merge --dtype f32 -o onef one && quiet compare one onef'
ok 'a model that does not say what must be fp32 is not cast to 16 bits' '
    one_line 1 "what must stay fp32" "$C" merge --drop-optimizer --dtype bf16 -o no one && test ! -e no'
ok 'a number that does not fit is named; bf16 holds it' '
    one_line 1 "does not fit f16" "$C" merge -q --dtype f16 -o unfit large && grep -qE "model/[a-z0-9._]*.: -?[0-9.e+]+ does" err &&
    test ! -e unfit/index.h5 && no_litter unfit && quiet merge --dtype bf16 -o largeb large'
if command -v h5dump >/dev/null; then
    numbers() { h5dump -m %.9g -d "$2" "$1" | sed -n "s/^ *(.*): //p" | tr -d " \n" | tr , "\n"; }
    ok 'plain HDF5 tools read 16 bits as numbers, whole and in a member' '
        numbers kinds/index.h5 /model/norm_f.weight >a && test "$(wc -l <a)" -eq 31 && for d in bf16 f16; do
            for f in parts$d/index.h5 k$d/part-*; do
                numbers $f /model/norm_f.weight >b && paste a b | awk "{ d = \$1 - \$2; if (d < 0) d = -d
                    x = \$1 < 0 ? -\$1 : \$1; if (d > x / 200) bad = 1; if (d) any = 1 } END { exit bad || !any || NR < 31 }" || exit 1
            done
        done'
    ok 'average: known values' '
        quiet average --weights 3,1 -o mean31 one other && for c in one other mean31; do numbers $c/index.h5 /model/norm_f.weight >$c.n; done &&
        paste one.n other.n mean31.n | awk "{ d = (3 * \$1 + \$2) / 4 - \$3; if (d < 0) d = -d; if (d > 1e-6) bad = 1 } END { exit bad || NR < 15 }" &&
        ! cmp -s one.n mean31.n'
    ok 'average: the history names the sources' '
        h5dump -w 0 -a /history mean31/index.h5 >out && grep -q "source 1 of 2, weight 3, .one., step 1" out &&
        grep -q "source 2 of 2, weight 1, .other., step 2" out && grep -q "    .*mkckpt other 2 3" out && grep -q "ckmerge average" out'
else
    skip 'plain HDF5 tools read 16 bits as numbers, whole and in a member' 'no h5dump'
    skip 'average: known values' 'no h5dump'
    skip 'average: the history names the sources' 'no h5dump'
fi

# ---- average ----
ok 'average: of a and a is a' '
    quiet average -o mean one three one && quiet compare --model-only mean one && "$C" ls mean >out && ! grep -qE "^(optim|state|#state)" out &&
    quiet average --weights 0.1,0.7 -o mean2 three one && quiet compare mean mean2 &&
    quiet average --weights 0,2 -o mean3 other one && quiet compare mean mean3 && quiet average --weights 1,0 -o mean4 other one &&
    quiet compare --model-only mean4 other && quiet verify mean'
ok 'average: types' '
    quiet average -o tf kinds twin && ! types tf | grep -v "f32$" && quiet average --dtype bf16 -o tb kinds twin && types kbf16 >want &&
    types tb | cmp - want && quiet merge --dtype bf16 -o tfb tf && quiet compare tb tfb &&
    quiet average --dtype bf16 -o same kbf16 kbf16 && cmp same/part-* kbf16/part-* && quiet average -o near kinds kbf16 &&
    quiet compare --tolerance 0.01 near kinds && must_exit 1 quiet compare near kinds'
ok 'average: other models' '
    cp -r twin odd && "$SSM_TESTS/mkother" odd d_ff=96 rope_base=500 pattern=MSRL* && one_line 1 "d_ff 48 / 96" "$C" average -o no kinds odd &&
    grep -q "rope_base 10000 / 500" err && grep -q "pattern .MSRL\*-. / .MSRL\*." err && grep -q "kinds.*odd" err &&
    "$MK" p1 1 1 model/a=3x4 model/b=5 && "$MK" p2 1 1 model/a=3x4 && "$MK" p3 1 1 model/a=4x3 model/b=5 &&
    for pair in "p1 p2" "p2 p1"; do one_line 1 "has no tensor" "$C" average -o no $pair && grep -q ".p2. has no tensor .model/b" err || exit 1; done &&
    one_line 1 "another shape" "$C" average -o no p1 p3 && test ! -e no'
ok 'average: weights' '
    one_line 2 "1 numbers for 2" "$C" average --weights 1 -o no one other && one_line 2 "more numbers" "$C" average --weights 1,2,3 -o no one other &&
    one_line 2 "not a number" "$C" average --weights 1,x -o no one other && one_line 2 "not a number" "$C" average --weights 1, -o no one other &&
    one_line 2 "below 0" "$C" average --weights 1,-1 -o no one other && one_line 2 "add up to 0" "$C" average --weights 0,0 -o no one other &&
    one_line 2 "not a number" "$C" average --weights 1,inf -o no one other && test ! -e no'
ok 'average: a number that is none, damage, its own output' '
    "$MK" none 1 1 "model/a=3x4*nan" model/b=5 && one_line 1 "holds" "$C" average -q -o nonumber p1 none &&
    grep -q ".none.: tensor .model/a. holds" err && test ! -e nonumber/index.h5 &&
    one_line 1 "does not fit f16" "$C" average -q --dtype f16 -o no2 large large && one_line 1 "both input and output" "$C" average -f -o one other one &&
    one_line 1 "--force" "$C" average -o mean other one && quiet verify one &&
    cp -r other hurt && change "$(ls hurt/part-* | head -n 1)" 5003 && one_line 1 "checksum" "$C" average -o no3 one hurt && test ! -e no3'
ok 'average: a plan writes nothing' '
    "$C" average -n -o no4 one other >out && test ! -e no4 && awk "!/^#/ { exit !(\$3 == 2932 && \$4 == 4 * 2932) }" out'
ok 'an existing output needs --force' '
    one_line 1 "--force" "$C" merge -o m1 other && quiet compare m1 one && one_line 1 "--force" "$C" merge -n -o m1 other &&
    quiet merge -f -o m1 other && quiet compare m1 other'
ok '--force leaves other files, and takes all of the old ones' '
    quiet split -o mine --parts 5 one && : >mine/notes && quiet merge -f -o mine other && test -e mine/notes &&
    test "$(find mine -name "part*" | wc -l)" -eq 1 && quiet compare mine other'
ok 'input and output are the same' '
    one_line 1 "both input and output" "$C" merge -f -o three three && one_line 1 "both" "$C" merge -f -o ./three/ three &&
    ln -s three link && one_line 1 "both" "$C" merge -f -o link three && quiet verify three'
ok 'a run folder: the newest checkpoint that opens' '
    mkdir -p run/inc-0001 run/inc-0002 && cp -r one run/inc-0001/step-00000010 && cp -r other run/inc-0002/step-00000020 &&
    quiet merge -o newest run && quiet compare newest other && cp -r one run/inc-0002/step-00000030 &&
    rm run/inc-0002/step-00000030/part* && cp -r one run/inc-0002/step-00000040 && rm run/inc-0002/step-00000040/index.h5 &&
    "$C" ls run >out 2>err && grep -q "^#path=run/inc-0002/step-00000020" out && grep -q "warning.*step-00000030" err &&
    must_exit 1 "$C" merge -f -o run run 2>err && grep -q "both input and output" err'

# ---- damage ----
ok 'a missing or shortened member' '
    cp -r three d1 && rm d1/part-00001* && one_line 1 "d1/part-00001-of-00003.h5" "$C" verify d1 &&
    cp -r three d2 && cut_file d2/part-00002-of-00003.h5 5000 && one_line 1 "has 5000 bytes" "$C" merge -o no d2 && test ! -e no'
ok 'a changed byte in data' '
    cp -r one d3 && f=d3/part-00000-of-00001.h5 && change $f $(($(wc -c <$f) / 2)) && one_line 1 "$f" "$C" verify d3 &&
    grep -q checksum err'
ok 'a changed byte in the index' '
    n=$(wc -c <three/index.h5) && i=0 && while [ $i -lt 40 ]; do
        rm -rf d4 && cp -r three d4 && change d4/index.h5 $((n * i / 40)) &&
        if "$C" verify d4 2>err; then quiet compare d4 three || exit 1
        else test $? -eq 1 && test "$(wc -l <err)" -eq 1 || exit 1; fi
        i=$((i + 1))
    done'
ok 'a shortened index' '
    cp -r three d5 && cut_file d5/index.h5 4000 && one_line 1 "d5/index.h5" "$C" verify d5 &&
    one_line 1 "d5/index.h5" "$C" compare one d5'
ok 'members of two checkpoints mixed' '
    cp -r three d6 && cp other/part-00001* d6 && one_line 1 "d6/part-00001-of-00003.h5" "$C" verify d6'
ok 'another kind of file' '
    mkdir d7 && cp one/part* d7/index.h5 && one_line 1 "d7/index.h5" "$C" ls d7'

# ---- a full disk, kills ----
"$MK" big 3 1 model/w=1000x500 model/u=3000x100
ok 'a disk that is full: one line, no index, no litter' '
    (trap "" XFSZ; ulimit -f 1000; one_line 1 "full/part-" "$C" merge -o full big) && test ! -e full/index.h5 && no_litter full'
ok 'a folder that cannot be written' '
    test "$(id -u)" -eq 0 && ro=/proc/none || { mkdir ro && chmod 555 ro && ro=ro/x; }; one_line 1 "$ro" "$C" merge -o $ro one'
ok 'kill -9 leaves the whole or nothing under a final name' '
    i=1 && while [ $i -le 12 ]; do
        rm -rf k; "$C" split -q -o k --parts 9 big & pid=$!
        sleep 0.00$((i * 7 % 10))$i; kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
        if [ -e k/index.h5 ]; then quiet compare k big || exit 1; else test ! -e k || ! quiet ls k || exit 1; fi
        i=$((i + 1))
    done && quiet split -f -o k --parts 9 big && quiet compare k big && no_litter k'

done_testing
