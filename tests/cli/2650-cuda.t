#!/bin/sh
# 2650-cuda.t - the tools on the CUDA backend, emulated; and what is said where it cannot be had
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

base="--model ./tiny.conf --batch 4 --seq-len 16 --steps 5 --warmup 0 --lr 1e-2 --save-every 0"
mpi="timeout 100 ${MPIEXEC:-mpiexec}"
# gap A B MOST: the losses of two runs differ by at most that in each of their 5 steps
gap() {
    column "$1" loss >a.loss
    column "$2" loss >b.loss
    paste -d ' ' a.loss b.loss | awk -v most="$3" '{ d = $2 - $4; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d; n++ }
        END { print "largest gap:", worst; exit !(n == 5 && worst <= most) }'
}
train --device cpu -o cpu || exit 1

# ---- the kernels, on the emulation ----
if [ -e "${SSM_CUDA:-}" ]; then
    # Other orders of sums; and a bf16 product is off by 2^-9 of its largest.
    for p in 'fp32 1e-5' 'bf16 2e-3'; do
        p=${p% *} most=${p#* }
        ok "--precision $p: near the CPU, and the same bits again" '
            train --device cuda --precision $p -o $p && gap cpu $p $most && train --device cuda --precision $p -o $p.again && same $p $p.again && ! same $p cpu'
        ok "--precision $p: stopped and gone on, the same bits" '
            must_exit 75 train --device cuda --precision $p -o $p.two --stop-at 2 && train --device cuda --precision $p -o $p.two && same $p $p.two'
    done
    ok '--precision tf32: near the CPU' 'train --device cuda --precision tf32 -o tf32 && gap cpu tf32 1e-3'
    ok 'auto is bf16 there, with the residual stream in it; --residual fp32 is something else' '
        train --device cuda -o auto && same auto bf16 && train --device cuda --residual fp32 -o residual && ! same residual bf16 && gap residual cpu 2e-3'
    ok 'a run goes on in another precision, and on the other device' '
        must_exit 75 train --device cuda --precision bf16 -o mixed --stop-at 2 && must_exit 75 train --device cuda --precision fp32 -o mixed --stop-at 4 &&
        train --device cpu -o mixed && gap mixed cpu 2e-3'
    ok 'micro-batches and --recompute full' 'train --device cuda --recompute full -o recompute && same recompute bf16 && train --device cuda --micro-batch 1 -o micro && gap micro bf16 2e-3'
    if $mpi -n 2 true 2>/dev/null; then
        for n in 2 3; do
            ok "$n ranks: each exchange of the devices, like the host's" '[ "$($mpi -n $n "$SSM_TESTS/mklinks" 20011)" = "ok $n ranks, device" ]'
        done
        ranks() { $mpi -n "$n" "$SSM_BIN/ssmtrain" -q $base --device cuda --precision fp32 "$@" data; }
        ok 'two ranks: the same losses' 'n=2 && ranks -o ranks && gap ranks fp32 1e-5 && ranks -o ranks.again && same ranks ranks.again'
        ok 'gradients summed in many buckets, and in one' '
            n=2 && for k in 1 1000; do ranks -o bucket$k --bucket-size $k --micro-batch 1 && gap bucket$k ranks 1e-6 || exit 1; done'
        # The last bucket's squares are added by themselves: of so many sums some end in another digit.
        ok '--bucket-size is heeded: in parts the gradient norms are others, to rounding' '
            n=2 base=$(echo "$base" | sed "s/--steps 5/--steps 20/") && for k in 1 100000; do ranks -o parts$k --bucket-size $k && column parts$k grad_norm >norms$k || exit 1; done
            ! cmp -s norms1 norms100000 && paste -d " " norms1 norms100000 | awk "{ d = (\$2 - \$4) / \$4; if (d > 1e-4 || d < -1e-4) bad = 1 } END { exit bad || NR != 20 }"'
        ok 'the same with frozen tensors, which stand still' '
            n=2 && for k in 1 1000 100000; do ranks -o frozen$k --bucket-size $k --freeze "*norm*" --clip 0.01 || exit 1; done
            same frozen1 frozen1000 && same frozen1 frozen100000 && train --device cuda --precision fp32 -o frozen --freeze "*norm*" --clip 0.01 && gap frozen frozen1 1e-5 && ! gap frozen fp32 1e-5'
    else
        skip 'two ranks' 'no mpiexec'
    fi
    ok 'ssmeval ppl: near the CPU; two times the same figures' '
        e() { "$SSM_BIN/ssmeval" ppl -q --seq-len 16 --limit 500 "$@" fp32 data; } && e --device cpu >cpu.tsv && e --device cuda --precision fp32 >fp32.tsv && e --device cuda >bf16.tsv && e --device cuda | cmp bf16.tsv - &&
        nats() { awk -F "\t" "/^#/ { for (i = 1; i <= NF; i++) if (\$i ~ /nats|loss/) c = i } !/^#/ { print \$c }" "$1"; } &&
        echo "$(nats cpu.tsv) $(nats fp32.tsv) $(nats bf16.tsv)" | awk "{ print; exit !(NF == 3 && (\$1 - \$2)^2 < 1e-10 && (\$1 - \$3)^2 < 4e-4) }"'
    ok 'ssmeval generate: the same text as on the CPU' '
        g() { "$SSM_BIN/ssmeval" generate -q --prompt "the cat" --tokens 12 --temperature 0 "$@" fp32; } && g --device cpu >want && g --device cuda --precision fp32 | cmp want - && g --device cuda >drawn && g --device cuda | cmp drawn -'

    # The emulation says that it is good for 1 GFLOP/s, in bf16 for 2, and that 1 of its 4 GiB is in use.
    ok 'the start says device, precision, peak and memory, of which as much is planned as -n says' '
        "$SSM_BIN/ssmtrain" $base --device cuda --precision fp32 -o says data 2>err && "$SSM_BIN/ssmtrain" -n $base --device cuda --precision fp32 --save-async off data >plan && planned=$(sed -n "s/^memory_rank=//p" plan) &&
        grep "device CUDA emulated on the CPU: fp32, peak 1 GFLOP/s; memory: .* planned, 1.07 GB of 4.29 GB in use" err >line &&
        sed "s/.*memory: \([0-9.]*\) kB planned.*/\1/" line | awk -v want="$planned" "{ print \$1, want; d = \$1 * 1e3 - want; exit !(d <= 500 && d >= -500) }"'
    ok 'MFU and memory of the device, each step and in the lines' '
        mfu() { sed "s/.*\"flops_per_s\":\([^,]*\),\"mfu\":\([^,]*\),.*\"device_memory\":\([^,]*\),.*/\1 \2 \3/" "$1"/inc-0001/metrics.jsonl | awk -v peak="$2" "{ d = \$1 / peak - \$2; if (d > 6e-5 || d < -6e-5 || \$3 != 2^30) { print; bad = 1 } } END { exit bad || NR != 5 }"; } &&
        mfu fp32 1e9 && mfu bf16 2e9 && { [ ! -d ranks ] || mfu ranks 2e9; } && grep -q "FLOP/s  MFU [0-9.]*%  .*B  device 1.07 GB  wait" err && tail -n 1 err | grep -q "FLOP/s, MFU [0-9.]*%"'
    ok 'auto takes no emulation' 'train -o taken && same taken cpu && "$SSM_BIN/ssmtrain" -n $base data | grep -qx device=cpu'
    if command -v gnuplot >/dev/null; then
        ok 'the report tells MFU' '
            timeout 60 "${SSM_TOP:?}/pipelines/report.sh" -o page.html bf16 cpu && grep -q "^<p>bf16: .*, MFU [0-9.]* %" page.html && ! grep "^<p>cpu: .*MFU" page.html'
    fi
else
    skip 'the emulated backend' 'no SSM_CUDA'
fi
ok 'the CPU tells neither' '
    "$SSM_BIN/ssmtrain" $base --device cpu -o quiet data 2>err && ! grep -e MFU -e "device" err && [ "$(grep -c "\"mfu\":null,.*\"device_memory\":null," cpu/inc-0001/metrics.jsonl)" -eq 5 ]'

# ---- where it cannot be had ----
# refused OBJECT WORDS: --device cuda says why in one line and writes nothing; auto says nothing and takes the CPU
refused() {
    must_exit 1 env SSM_CUDA="$1" "$SSM_BIN/ssmtrain" $base --device cuda -o refused data >out 2>err && one_line err && grep -q "no device 'cuda': .*$2" err && [ ! -s out ] && [ ! -e refused ] &&
    must_exit 1 env SSM_CUDA="$1" "$SSM_BIN/ssmeval" ppl --device cuda cpu data >out 2>err && one_line err && grep -q "$2" err && [ ! -s out ] &&
    env SSM_CUDA="$1" "$SSM_BIN/ssmtrain" -n $base --device auto data >plan 2>err && { [ ! -s err ] || { cat err; return 1; }; } && grep -qx device=cpu plan
}
echo 'no library' >text.so
real=$SSM_BIN/../lib/libssmcuda.so
# Where there is a GPU, auto says that it is not used for want of its library.
if [ ! -e /dev/nvidiactl ]; then
    ok 'SSM_CUDA names nothing' 'refused "$PWD/nothing.so" "nothing.so: cannot open"'
    ok 'SSM_CUDA names what is no shared object' 'refused "$PWD/text.so" "text.so: "'
fi
if [ -e "$SSM_BIN/../lib/libh5zstd.so" ]; then
    ok 'SSM_CUDA names another shared object' 'refused "$SSM_BIN/../lib/libh5zstd.so" "libh5zstd.so. is not a backend of ssmtools"'
fi
if [ -e "$real" ]; then
    ok 'no GPU, or none that may be seen' 'CUDA_VISIBLE_DEVICES= && export CUDA_VISIBLE_DEVICES && refused "$real" "no NVIDIA driver\|no GPU\|cannot load the CUDA backend: lib"'
    ! command -v nm >/dev/null || ok 'its one symbol' '[ "$(nm -D --defined-only "$real" | sed "s/.* //")" = ssm_device_open ]'
else
    ok 'tools that were built without CUDA say so' 'refused "" "built without CUDA"'
fi
done_testing
