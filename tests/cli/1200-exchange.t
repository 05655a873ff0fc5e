#!/bin/sh
# 1200-exchange.t - token files of Megatron-LM and llm.c in and out, sets merged, blended, counted
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034,SC2059  # ok evaluates its text, later
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"

T=$SSM_BIN/tokshard
G=$SSM_TOP/tests/golden/megatron-data
MPIEXEC=${MPIEXEC:-mpiexec}

one_line() { # CODE TEXT COMMAND...: exits with CODE and says one line on stderr, which holds TEXT
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >/dev/null || { cat err; return 1; }
    test "$(wc -l <err)" -eq 1 && grep -qF -e "$text" err || { cat err; return 1; }
}
value() { "$T" stat "$1" | sed -n "s/^$2	//p"; }
no_litter() { test -z "$(find "$1" -name '*.tmp.*' 2>/dev/null)"; }
import() { "$T" import -q "$@"; }
gpt2='--tokenizer gpt2 --vocab 50257 --eod 50256'
same_pair() { cmp "$1.bin" "$2.bin" && cmp "$1.idx" "$2.idx"; }

# ---- what numpy wrote ----
while read -r name vocab eod more; do
    ok "Megatron-LM: $name, in and back out byte for byte" '
        import -o $name --tokenizer x --vocab $vocab --eod $eod ${more%%/*} "$G/$name" && "$T" check -q $name &&
        "$T" cat --ids $name | cmp - "$G/$name.txt" &&
        { [ "${more#*/}" = none ] || { "$T" export -q ${more#*/} -o $name.out $name && same_pair $name.out "$G/$name"; }; }'
done <<'EOT'
u16 50257 50256 /
i64 128256 128000 /--dtype=i64
i8 128 127 /--dtype=i8
split-i32 70000 69999 /none
modes-i16 30000 29999 /none
bare-u8 256 255 --append-eod/none
EOT
ok 'what it says of them: sequences, modes, documents without tokens, end tokens' '
    "$T" import -o s1 --tokenizer x --vocab 70000 --eod 69999 "$G/split-i32" 2>&1 | grep -q "79 sequences in 30 documents" &&
    "$T" import -o s2 --tokenizer x --vocab 30000 --eod 29999 "$G/modes-i16" 2>&1 | grep -q "modes, all 0" &&
    "$T" import -o s3 --tokenizer x --vocab 256 --eod 255 --append-eod "$G/bare-u8" 2>&1 | grep -q "2 without tokens skipped, 30 end tokens added"'
ok '--sequences: each one a document; without an end token --append-eod is named' '
    one_line 1 "--append-eod" "$T" import -q -o seq --sequences --tokenizer x --vocab 70000 --eod 69999 "$G/split-i32" &&
    import -f -o seq --sequences --append-eod --tokenizer x --vocab 70000 --eod 69999 "$G/split-i32" &&
    test "$(value seq documents)" -gt 60 &&
    "$T" cat --ids seq | tr " " "\n" | grep -vx 69999 >got && tr " " "\n" <"$G/split-i32.txt" | grep -vx 69999 | cmp - got'
ok '--drop-eod takes off what --append-eod put on' '
    "$T" export -q --drop-eod --dtype u8 -o bare bare-u8 && cmp bare.bin "$G/bare-u8.bin"'
for w in 16 32; do
    ok "llm.c: u$w, in and back out byte for byte, also over several files" '
        { [ $w = 16 ] && who="$gpt2"; } || who="--tokenizer llama3 --vocab 128256 --eod 128000"
        import -o c$w $who "$G/llmc-u$w.bin" && "$T" cat --ids c$w | cmp - "$G/llmc-u$w.txt" &&
        "$T" export -q --format llmc -o c$w c$w && cmp c${w}_000000.bin "$G/llmc-u$w.bin" &&
        "$T" export -q --format llmc --file-tokens 77 -o cut$w c$w && test -e cut${w}_000006.bin &&
        import -o again$w $who cut${w}_*.bin && test "$(value again$w hash)" = "$(value c$w hash)" &&
        one_line 1 "--force" "$T" export --format llmc -o cut$w c$w &&
        "$T" export -q -f --format llmc -o cut$w c$w && ! test -e cut${w}_000001.bin && cmp cut${w}_000000.bin "$G/llmc-u$w.bin"'
done
ok 'many files are one stream, in members of --part-tokens' '
    import -o parts --part-tokens 300 $gpt2 "$G/u16" "$G/u16.idx" "$G/u16.bin" && test "$(value parts members)" -eq 21 &&
    cat "$G/u16.txt" "$G/u16.txt" "$G/u16.txt" >want && "$T" cat --ids parts | cmp - want && "$T" check -q parts'

# ---- ours, out and back ----
i=0
while [ $i -lt 900 ]; do
    printf 'document %d says\n%*s.\n' $i $((i % 90)) x
    i=$((i + 1))
done >a.txt
"$T" encode -q --split line -o ours a.txt
ok 'ours, out and back: the same set, bytes of text too' '
    "$T" export -q -o out ours && import -o back out && test "$(value back hash)" = "$(value ours hash)" &&
    test "$(value back bytes)" -eq "$(value ours bytes)" && "$T" cat --sep "|" ours >want && "$T" cat --sep "|" back | cmp - want &&
    "$T" export -q --format llmc -o llmc ours && import -o back2 llmc_000000.bin &&
    test "$(value back2 hash)" = "$(value ours hash)"'
ok 'import --log-every: time between lines of progress' '
    "$T" import --log-every 0 -o told out 2>err && grep -q " eta " err && "$T" import --log-every 100 -o untold out 2>err && ! grep " eta " err'
ok 'all types that hold the vocabulary; the others are named' '
    for d in i16 i32 i64 u16; do
        "$T" export -q -f --dtype $d -o typed ours && import -f -o typed typed && test "$(value typed hash)" = "$(value ours hash)" || exit 1
    done &&
    one_line 2 "u8 do not hold" "$T" export -f --dtype u8 -o typed ours && one_line 2 "no ids of type u32" "$T" export -f --dtype u32 -o typed ours &&
    one_line 2 "no ids of type i32" "$T" export -f --format llmc --dtype i32 -o typed ours'
if $MPIEXEC -n 2 true 2>/dev/null; then
    ok 'two ranks: the same documents' '
        $MPIEXEC -n 2 "$T" import -q -o ranks out && test "$(value ranks members)" -eq 2 && "$T" cat --ids ours >want &&
        "$T" cat --ids ranks | cmp - want && "$T" check -q ranks &&
        $MPIEXEC -n 2 "$T" merge -q -o rmerged ranks ours && cat want want >want2 && "$T" cat --ids rmerged | cmp - want2'
else
    skip 'ranks' "no $MPIEXEC"
fi

L=$SSM_TOP/tests/golden/tokenizer/llama3
ok 'import: a tokenizer at hand, its end token and special tokens as they were encoded' '
    printf "a <|end_of_text|> b\n\nc\n" >l.txt &&
    "$T" encode -q --split para --tokenizer "$L" --eod "<|eot_id|>" --specials parse -o l l.txt && "$T" export -q -o lout l &&
    eod=$("$T" cat --ids --doc 1 l | sed "s/.* //") && import --tokenizer "$L" --eod "$eod" --specials parse -o l2 lout &&
    "$T" merge -q -o l3 l l2 && test "$(value l bytes)" = "$(value l2 bytes)" && "$T" cat --ids l >want && "$T" cat --ids l2 | cmp - want &&
    import --tokenizer "$L" --eod "$eod" -o l4 lout && one_line 1 "was made by tokenizer" "$T" merge -o no l l4 &&
    one_line 1 "not with the end token" "$T" import --tokenizer "$L" -o l5 lout && one_line 2 "99999" "$T" import -o no --tokenizer "$L" --eod 99999 lout'

# ---- refusals ----
ok 'import: what is not there, not known, not ours' '
    one_line 1 "no token file that is known" "$T" import -o no nowhere && one_line 1 "cannot open" "$T" import --format megatron -o no nowhere &&
    one_line 1 "no token file" "$T" import -o no a.txt && one_line 1 "of different formats" "$T" import -o no $gpt2 "$G/u16" "$G/llmc-u16.bin" &&
    one_line 1 "holds f32, not ids" "$T" import -o no $gpt2 "$G/floats" &&
    one_line 1 "outside the vocabulary of 257" "$T" import -o no2 "$G/u16" && ! test -e no2/index.h5 && no_litter no2 &&
    one_line 1 "does not lie in" sh -c "cp \"\$1\".idx cut.idx; head -c 4000 \"\$1\".bin >cut.bin; exec \"\$2\" import -o no $gpt2 cut" - "$G/u16" "$T" &&
    ! test -e no'
ok 'import: usage' '
    one_line 2 "-o DIR" "$T" import out && one_line 2 "--eod ID" "$T" import -o no --vocab 300 out &&
    one_line 2 "bytes" "$T" import -o no --eod 3 out && one_line 2 "specials" "$T" import -o no --vocab 300 --eod 3 --specials parse out &&
    one_line 2 "tokenizer-hash" "$T" import -o no --tokenizer-hash 0123456789abcdef out && one_line 2 "is not below" "$T" import -o no --vocab 300 --eod 300 out &&
    one_line 2 "describe a foreign one" "$T" import -o no --tokenizer gpt2 out &&
    one_line 2 "16 hexadecimal" "$T" import -o no --vocab 300 --eod 3 --tokenizer-hash xyz out &&
    one_line 2 "-o PREFIX" "$T" export ours && one_line 2 "--drop-eod" "$T" export --format llmc --drop-eod -o no ours && ! test -e no'
ok 'what is there needs --force; half a pair too' '
    one_line 1 "--force" "$T" export -o out ours && one_line 1 "--force" "$T" import -o back out && cp out.bin half.bin &&
    one_line 1 "half.bin" "$T" export -o half ours && ! test -e half.idx && no_litter . &&
    "$T" export -q -f -o half ours && same_pair half out && import -f -o back out && "$T" check -q back'
ok 'a member that is there and right is kept, another is refused' '
    import -o kept --part-tokens 9k out && rm kept/index.h5 kept/part-00001-of-*.h5 &&
    "$T" import --part-tokens 9k -o kept out 2>&1 | grep -q "6 of 7 files were there already" && "$T" check -q kept &&
    test "$(value kept tokens)" -eq "$(value ours tokens)" && rm kept/index.h5 && touch -d "2001-02-03" out.bin &&
    one_line 1 "other inputs or options" "$T" import --part-tokens 9k -o kept out'

# ---- merge ----
"$T" encode -q --split file -o more a.txt
ok 'merge: documents in order, totals, nothing compressed again' '
    "$T" merge -q -o all ours more ours && "$T" check -q all &&
    { "$T" cat --ids ours; "$T" cat --ids more; "$T" cat --ids ours; } >want && "$T" cat --ids all | cmp - want &&
    test "$(value all documents)" -eq 3601 && test "$(value all bytes)" -eq $((2 * $(value ours bytes) + $(value more bytes))) &&
    "$T" merge -q -o one ours && test "$(value one hash)" = "$(value ours hash)" &&
    "$T" merge -q -o sum2 all one && test "$(value sum2 members)" -eq 4'
ok 'merge: other tokenizers, itself, damage, no documents, usage' '
    one_line 1 "was made by tokenizer" "$T" merge -o no ours u16 && one_line 1 "both input and output" "$T" merge -f -o ours more ours &&
    "$T" check -q ours && import -o v2 --tokenizer x --vocab 60000 --eod 50256 --tokenizer-hash 0123456789abcdef "$G/u16" &&
    import -o v1 --tokenizer x --vocab 50257 --eod 50256 --tokenizer-hash 0123456789abcdef "$G/u16" &&
    one_line 1 "has vocabulary 50257" "$T" merge -o no v1 v2 && ! test -e no &&
    one_line 1 "--force" "$T" merge -o all ours && one_line 2 "-o DIR" "$T" merge ours && one_line 1 "nowhere" "$T" merge -o no nowhere &&
    cp -r ours hurt && printf "\252" | dd of=hurt/part-00000-of-00001.h5 bs=1 seek=5000 conv=notrunc 2>/dev/null &&
    one_line 1 "has checksum" "$T" merge -o no more hurt && ! test -e no/index.h5 && no_litter no'

# ---- stat ----
ok 'stat: lengths and vocabulary' '
    printf "aab\nb\nabcdefg\n" >s.txt && "$T" encode -q --split line -o small s.txt && "$T" stat small >got && cat >want <<E &&
length_min	2
length_median	4
length_p90	8
length_p99	8
length_max	8
ids_seen	8
top_id	97
top_id_share	0.214286
documents_from_2	1
documents_from_4	1
documents_from_8	1
E
    tail -n 11 got | cmp - want && test "$(cut -f 1 got | head -n 11 | tr "\n" " ")" = "documents tokens bytes tokens_per_byte members tokenizer vocab replaced unigram_bits_per_token unigram_bits_per_byte hash "'
ok 'stat: no bytes of text, no figures a byte' 'test "$(value u16 unigram_bits_per_byte)" = nan && test "$(value u16 tokens_per_byte)" = nan'

# ---- blends ----
mkdir -p b
cp -r ours more b
printf '# both\nours 3\n"more" 1 # the file\n' >b/w.blend
printf 'ours epochs=1\nmore epochs=2\n' >b/e.blend
printf 'alpha = 0.5\nours\nmore\n' >b/a.blend
tiny_model 'M' >tiny.conf
train="--model ./tiny.conf --batch 4 --seq-len 64 --steps 20 --warmup 2"
ok 'stat --blend: weights, epochs, alpha' '
    "$T" stat --blend b/w.blend | cut -f 1,5,6 >got && printf "# set\tweight\tshare\nb/ours\t3\t0.750000\nb/more\t1\t0.250000\n" | cmp - got &&
    "$T" stat --blend b/e.blend --budget $(($(value ours tokens) + 2 * $(value more tokens))) | cut -f 7 >got &&
    printf "epochs\n1.0000\n2.0000\n" | cmp - got &&
    "$T" stat --blend b/a.blend | awk "NR > 1 { r[NR] = \$5 * \$5 / \$3 } END { d = r[2] - r[3]; exit !(d * d < 1e-6) }" &&
    one_line 2 "one of DIR" "$T" stat && one_line 2 "one of DIR" "$T" stat --blend b/w.blend ours &&
    one_line 2 "one of DIR" "$T" stat --budget 5 ours'
ok 'ssmtrain --blend: what the run takes of each set' '
    "$SSM_BIN/ssmtrain" -n $train --blend b/w.blend >got && "$SSM_BIN/ssmtrain" -n $train b/ours@3 b/more >want && cmp got want &&
    grep -qx "b/ours	$(value ours tokens)	3	0.750000	0.[0-9]*" got &&
    sed -n "/^# data/,\$p" got | awk -F "\t" "NR > 1 { w = int((\$2 + 63) / 64); e = 80 * \$4 / w; if ((e - \$5) ^ 2 > 1e-8) exit 1 }"'
ok 'ssmtrain --blend trains what the operands would, and goes on with them' '
    "$SSM_BIN/ssmtrain" -q $train --stop-at 10 -o r1 --blend b/w.blend; test $? -eq 75 && "$SSM_BIN/ssmtrain" $train -o r1 b/ours@3 b/more@1 2>err &&
    grep -q "data .b/more.: .* weight 1, 0.2500 of the samples, 0\.[0-9]* epochs" err &&
    "$SSM_BIN/ssmtrain" -q $train -o r2 --blend b/w.blend && "$SSM_BIN/ckmerge" compare -q r1 r2'
ok 'ssmtrain --blend: errors in one line' '
    train() { "$SSM_BIN/ssmtrain" $train -o none "$@"; }
    printf "ours 1\nmore x\n" >b/x.blend && printf "nothing\n" >b/n.blend && printf "ours\n../u16\n" >b/t.blend &&
    one_line 2 "nowhere.blend" train --blend nowhere.blend && one_line 2 "is too much" train --blend b/w.blend ours &&
    one_line 2 "b/x.blend:2: " train --blend b/x.blend && one_line 1 "b/nothing" train --blend b/n.blend &&
    one_line 1 "was made by tokenizer" train --blend b/t.blend && ! test -e none'

# ---- memory, kills ----
if [ -z "${ASAN_OPTIONS:-}" ] && command -v python3 >/dev/null; then
    python3 -c "
import struct
n = 400000
with open('wide.bin', 'wb') as f:
    for i in range(n // 1000): f.write(struct.pack('<25H', *range(24), 256) * 1000)
with open('wide.idx', 'wb') as f:
    f.write(b'MMIDIDX\0\0' + struct.pack('<QBQQ', 1, 8, n, n + 1) + struct.pack('<i', 25) * n)
    f.write(b''.join(struct.pack('<q', 50 * i) for i in range(n)) + b''.join(struct.pack('<q', i) for i in range(n + 1)))"
    ok 'ten million tokens in 64 MB of memory, and back' '
        (ulimit -v 400000; "$T" import --part-tokens 1M -o wide wide 2>err && "$T" export -q -o wide2 wide) &&
        awk "/peak memory/ { for (i = 1; i < NF; i++) if (\$i == \"memory\") exit !(\$(i + 1) < 64) }" err && same_pair wide wide2'
else
    skip 'memory' 'python3 or sanitizers'
fi
ok 'kill -9 at any moment: a whole set or none, a pair or no index' '
    for wait in 0.01 0.02 0.04 0.06 0.1 0.15; do
        "$T" import -q --level 12 --part-tokens 2k -o killed out & pid=$!
        sleep $wait; kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
        test -e killed/index.h5 || import --level 12 --part-tokens 2k -o killed out || exit 1
        "$T" check -q killed && no_litter killed && test "$(value killed tokens)" -eq "$(value ours tokens)" && rm -r killed || exit 1
    done'
done_testing
