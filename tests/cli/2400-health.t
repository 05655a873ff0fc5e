#!/bin/sh
# 2400-health.t - steps that are skipped, runs that have diverged, words for a living run
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"
mkckpt=${SSM_TESTS:-$SSM_BIN/../tests}/mkckpt

common="--batch 4 --seq-len 16 --lr 1e-2 --warmup 0"
base="--model ./tiny.conf $common"

# ---- not finite ----
if [ -x "$mkckpt" ]; then
    "$mkckpt" nan 1 2 "$PWD/tiny.conf*nan" || exit 1
    ok 'NaN: steps are skipped and counted, samples taken, and --max-skips in a row end with 93' '
        must_exit 93 "$SSM_BIN/ssmtrain" -q $common --init-from nan --steps 50 --max-skips 3 -o sick data 2>err && one_line err && grep -q "diverged: 3 steps in a row" err &&
        [ "$(column sick skip | tr "\n" " ")" = "1 1 2 1 3 1 " ] && [ "$(column sick samples | tail -n 1)" = "3 12" ] && [ "$(column sick skipped | tail -n 1)" = "3 3" ] &&
        column sick loss | grep -qx "1 null" && ! find sick -name index.h5 | grep -q .'
    ok 'the lines say so' '"$SSM_BIN/ssmtrain" $common --init-from nan --steps 50 --max-skips 2 -o sick1 data 2>err; grep -q "step 1 skipped: loss nan" err && grep -q "2 in a row, 2 in all" err'
    ok 'weights that are not finite are not saved' '
        must_exit 93 "$SSM_BIN/ssmtrain" -q $common --init-from nan --steps 50 --stop-at 1 -o sick2 data 2>err && one_line err && grep -q "not finite" err && ! find sick2 -name index.h5 | grep -q .'
    if ${MPIEXEC:-mpiexec} -n 2 true 2>/dev/null; then
        ok 'two ranks agree on it' '
            must_exit 93 timeout 60 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" -q $common --init-from nan --steps 50 --max-skips 3 -o sick3 data 2>err && one_line err && [ "$(column sick3 skipped | tail -n 1)" = "3 3" ]'
    else
        skip 'two ranks agree on it' 'no mpiexec'
    fi
else
    skip 'NaN' 'no mkckpt'
fi
ok 'a run that blows up leaves with 93, and the checkpoint before is whole and goes on' '
    wild="--schedule constant --steps 200 --save-every 0" && must_exit 75 train -o wild $wild --stop-at 4 &&
    must_exit 93 "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --batch 4 --seq-len 16 --warmup 0 --lr 10 --clip 0 --weight-decay 10 $wild -o wild data 2>err && one_line err && grep -q diverged err &&
    "$SSM_BIN/ckmerge" verify -q wild && [ "$(find wild -name index.h5 | wc -l)" -eq 1 ] && train -o wild --schedule constant --steps 8 &&
    train -o calm --schedule constant --steps 8 && same wild calm'

# ---- z-scores: --skip-loss-z and --skip-grad-z ----
train -o plain --steps 190 || exit 1
ok 'z-scores are those of the last 128 values' '
    for n in loss grad_norm; do
        column plain $n >x && column plain ${n}_z >z && paste -d " " x z | awk "{ v[NR] = \$2; want = 0
            if (NR >= 128) { s = q = 0; for (i = NR - 127; i <= NR; i++) s += v[i]; m = s / 128; for (i = NR - 127; i <= NR; i++) q += (v[i] - m) ^ 2; want = (\$2 - m) / sqrt(q / 128) }
            d = want - \$4; if (d < 0) d = -d; if (d > 1e-3) bad = 1; if (want) n++ } END { exit bad || n < 60 }" || exit 1
    done'
for kind in loss grad; do
    ok "--skip-$kind-z skips what is beyond it, and nothing else" '
        z=loss_z; [ '$kind' = loss ] || z=grad_norm_z
        train -o "z-'$kind'" --steps 400 --schedule constant --skip-'$kind'-z 0.5 && column "z-'$kind'" $z >a && column "z-'$kind'" skip | paste -d " " a - |
            awk "{ if ((\$2 > 0.5) != \$4 && (\$2 < 0.4999 || \$2 > 0.5001)) bad = 1; n += \$4 } END { exit bad || n < 3 }" &&
        n=$(column "z-'$kind'" skipped | tail -n 1 | cut -d " " -f 2) && "$SSM_BIN/ckmerge" ls "z-'$kind'" | grep -qx "#state.updates=$((400 - n))"'
done
ok 'a skipped step changes no weight' '
    s=$(column z-grad skip | awk "\$2 { print \$1; exit }") && must_exit 75 train -o before --steps 400 --schedule constant --skip-grad-z 0.5 --stop-at $((s - 1)) &&
    must_exit 75 train -o after --steps 400 --schedule constant --skip-grad-z 0.5 --stop-at $s && "$SSM_BIN/ckmerge" compare -q --model-only before after && ! same before after'
ok 'stopped and gone on: the window comes along, bit by bit' '
    must_exit 75 train -o parts --steps 400 --schedule constant --skip-grad-z 0.5 --stop-at 120 && must_exit 75 train -o parts --steps 400 --schedule constant --skip-grad-z 0.5 --stop-at 150 &&
    train -o parts --steps 400 --schedule constant --skip-grad-z 0.5 && same z-grad parts'

ok 'a limit that no step can pass is refused' '
    for z in skip-loss-z skip-grad-z; do must_exit 2 train -o high --steps 2 --$z 11.28 2>err && one_line err && grep -q "of .$z. is above 11.27" err || exit 1; done; train -o high --steps 2 --skip-loss-z 11.2'

# ---- RUN/control ----
gone() { # FILE: waits until it is away
    tries=0
    while [ -e "$1" ]; do tries=$((tries + 1)); [ $tries -lt 400 ] || return 1; sleep 0.05; done
}
ok 'save: a checkpoint, and the run goes on; stop: a checkpoint, and exit 75; each is taken once' '
    timeout 60 "$SSM_BIN/ssmtrain" -q $base --steps 1000000 --save-every 0 -o live data 2>err & pid=$!
    wait_for live/inc-0001/metrics.jsonl
    echo save >live/control && gone live/control && [ "$(find live -name index.h5 | wc -l)" -eq 1 ] && kill -0 $pid &&
    echo jump >live/control && gone live/control && kill -0 $pid && echo stop >live/control
    must_exit 75 wait $pid && [ ! -e live/control ] && [ "$(find live -name index.h5 | wc -l)" -eq 2 ] && one_line err && grep -q "says .jump., neither save nor stop" err'
ok 'save and stop: stop' '
    mkdir both && printf "save\nstop\n" >both/control && must_exit 75 timeout 60 "$SSM_BIN/ssmtrain" -q $base --steps 100000 --save-every 0 -o both data && [ ! -e both/control ] && find both -name index.h5 | grep -q step-00000001'
ok 'what cannot be read is told, once, and stays' '
    mkdir -p folder/control && train -o folder --steps 9 2>err && one_line err && grep -q "cannot read .folder/control.: Is a directory" err && [ -d folder/control ]'
done_testing
