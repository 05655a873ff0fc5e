#!/bin/sh
# 1400-pack.t - conversations to packed sets: shapes, templates, masks, rows, parts, bad lines
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034,SC2086  # ok evaluates its text, later
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tap.sh"
T=$SSM_BIN/tokshard
mpi="timeout 60 ${MPIEXEC:-mpiexec}"
unset SSM_TEMPLATES
q="'" # for texts in quotes of ok

pack() { "$T" pack -q "$@"; }
value() { "$T" stat "$1" | sed -n "s/^$2	//p"; } # value DIR NAME
dry() { "$T" pack -q -n -o dry "$@" >counts && ! [ -e dry ]; }
count() { grep -qx "$1	$2" counts || { cat counts; return 1; }; } # count NAME VALUE: of dry
# What is in a set, a line a conversation: ids|mask
all() { "$T" cat --ids "$1" >ids && "$T" cat --mask "$1" >mask && paste -d '|' ids mask; }
# one_line CODE TEXT COMMAND...: exits with CODE and says one line on stderr, which holds TEXT.
one_line() {
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >/dev/null || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -qF -e "$text" err || { cat err; return 1; }
}
has_mpi() { $mpi -n 2 true 2>/dev/null; }

# ---- ids and masks of every template, by another program ----
specials='<|endoftext|> <|im_start|> <|im_end|> <extra_id_0> <extra_id_1> <|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>'
perl "$SSM_TOP/tests/chat.pl" make 300 >talks.jsonl
echo x >x.txt
"$T" train -q --vocab 265 --specials "$(echo "$specials" | tr ' ' ',')" -o tok.json x.txt
common="--tokenizer tok.json --seq-len 600"
for template in plain bare nemo chatml nemotron llama3; do
    for loss in answers all; do
        ok "$template, loss on $loss: ids and masks of a reference" '
            pack $common --template $template --loss $loss -o $template-$loss talks.jsonl && "$T" check -q $template-$loss &&
            perl "$SSM_TOP/tests/chat.pl" $template $loss $specials <talks.jsonl | sort >want && [ "$(wc -l <want)" -gt 250 ] &&
            awk -F "[|]" "split(\$1, a, \" \") <= 600" want >fit && [ "$(wc -l <fit)" -gt 200 ] && all $template-$loss | sort | cmp - fit'
    done
done
ok 'stat counts rows and targets' '
    [ "$(value chatml-answers targets)" -eq "$(all chatml-answers | cut -d "|" -f 2 | tr " " "\n" | grep -c 1)" ] &&
    [ "$(value chatml-all targets)" = "$(value chatml-all tokens)" ] && [ "$(value chatml-all seq_len)" -eq 600 ] &&
    value chatml-all samples_filled | awk "{ exit !(\$1 > 0.97 && \$1 <= 1) }"'
ok 'a set that is not packed: every token counts, and stat says nothing of rows' '
    "$T" encode -q -o text x.txt && [ "$("$T" cat --mask text)" = "1 1 1" ] && ! "$T" stat text | grep -q -e samples -e targets -e seq_len'
H=$SSM_TOP/tests/golden/chat
for template in chatml llama3; do
    ok "$template: ids and masks of transformers, apply_chat_template() with a tokenizer that merges" '
        pack --tokenizer "$H/tokenizer.json" --template $template --rows single -o theirs-$template "$H/talks.jsonl" &&
        all theirs-$template | sort >got && sort "$H/$template.txt" | cmp - got && [ "$(wc -l <got)" -eq 24 ]'
done

# ---- rows ----
long() { awk -v n="$1" 'BEGIN { while (n--) printf "x" }'; } # N letters
line() { echo "{\"prompt\": \"$(long $1)\", \"completion\": \"y\"}"; } # of N tokens: prompt, answer, end
for n in 60 10 30 70 90 40; do line $((n - 2)); done >sizes.jsonl
ok 'rows: the longest first, each where the least room is left' '
    pack --template plain --seq-len 100 -o rows sizes.jsonl && [ "$(value rows samples)" -eq 3 ] && [ "$(value rows samples_filled)" = 1.000000 ] &&
    "$T" cat --mask rows | awk "{ print NF }" | paste -sd " " >order && grep -q "90 10" order && grep -q "70 30" order && grep -q "60 40" order'
ok '--rows single: one conversation a row' 'pack --template plain --seq-len 100 --rows single -o single sizes.jsonl && [ "$(value single samples)" -eq 6 ]'
ok '--window: what does not fit in memory is packed in turns' '
    pack --template plain --seq-len 100 --window 70 -o turns sizes.jsonl && [ "$(value turns samples)" -eq 4 ] && "$T" check -q turns && [ "$(value turns documents)" -eq 6 ]'
ok 'the same command the same set; another seed another order of the same rows' '
    pack $common --template chatml -o again talks.jsonl && [ "$(value again hash)" = "$(value chatml-answers hash)" ] &&
    pack $common --template chatml --seed 2 -o seed talks.jsonl && [ "$(value seed hash)" != "$(value again hash)" ] &&
    all seed | sort >a && all again | sort | cmp a - && [ "$(value seed samples)" = "$(value again samples)" ]'
line 200 >toolong.jsonl; line 20 >>toolong.jsonl
ok 'too long: left out and counted, by default' '
    dry --template plain --seq-len 100 toolong.jsonl && count too_long 1 && count documents 1 && count shortened 0'
ok 'too long: --too-long refuse is a bad line' 'one_line 1 "toolong.jsonl:1: the conversation has 202 tokens, more than 100" "$T" pack --template plain --seq-len 100 --too-long refuse -o no toolong.jsonl && [ ! -e no/index.h5 ]'
ok 'too long: --too-long truncate takes the front of the first user message, to the token' '
    echo "{\"messages\": [{\"role\": \"system\", \"content\": \"sys\"}, {\"role\": \"user\", \"content\": \"0123456789\"}, {\"role\": \"assistant\", \"content\": \"A\"}, {\"role\": \"user\", \"content\": \"uu\"}, {\"role\": \"assistant\", \"content\": \"B\"}]}" >cut.jsonl &&
    echo "{\"prompt\": \"\", \"completion\": \"much too long for 13\"}" >>cut.jsonl &&
    dry --template plain --seq-len 13 --too-long truncate cut.jsonl && count shortened 1 && count too_long 1 &&
    pack --template plain --seq-len 13 --too-long truncate -o cut cut.jsonl && [ "$("$T" cat cut)" = "sys6789AuuB" ] &&
    [ "$("$T" cat --mask cut)" = "0 0 0 0 0 0 0 1 1 0 0 1 1" ]'
printf '%s\n' '{"messages": [{"role": "user", "content": "q"}]}' '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}' >untold.jsonl
ok 'without a target: left out and counted; with --loss all everything is one' '
    { cat untold.jsonl; line 5; } >some.jsonl && dry --template plain some.jsonl && count no_target 2 && count documents 1 &&
    dry --loss all --template plain some.jsonl && count no_target 0 && count documents 3 && count targets "$(sed -n "s/^tokens	//p" counts)" &&
    one_line 1 "no conversations to train on" "$T" pack --template plain -o no untold.jsonl && [ ! -e no/index.h5 ]'

# ---- any number of parts and ranks, and all that encode can read ----
ok 'three parts and an index hold the same conversations' '
    for i in 1 2 3; do pack $common --template chatml --part $i/3 -o parts talks.jsonl || exit 1; done && "$T" index -q parts && "$T" check -q parts &&
    all parts | sort >a && all chatml-answers | sort | cmp a - && [ "$(value parts members)" -eq 3 ]'
if has_mpi; then
    ok 'so do two ranks, and they are the bytes of two parts' '
        $mpi -n 2 "$T" pack -q $common --template chatml -o ranks talks.jsonl && all ranks | sort >a && all chatml-answers | sort | cmp a - &&
        for i in 1 2; do pack $common --template chatml --part $i/2 -o two talks.jsonl || exit 1; done && "$T" index -q two && [ "$(value two hash)" = "$(value ranks hash)" ]'
    ok 'a bad line on the second rank: exit 1, one line' '
        { cat talks.jsonl; echo "{"; } >late.jsonl && one_line 1 "bad JSON" $mpi -n 2 "$T" pack -q $common --template chatml -o late late.jsonl && [ ! -e late/index.h5 ]'
else
    skip 'ranks' 'no mpiexec'
fi
ok 'gzip, zstd, standard input, a list of names' '
    gzip -k talks.jsonl && zstd -q talks.jsonl && all chatml-answers | sort >want &&
    for f in talks.jsonl.gz talks.jsonl.zst; do pack -f $common --template chatml -o packed $f && all packed | sort | cmp - want || exit 1; done &&
    pack $common --template chatml -o in - <talks.jsonl.gz && all in | sort | cmp - want &&
    printf "talks.jsonl\0" | pack -f $common --template chatml -o in --null --files-from - && all in | sort | cmp - want &&
    one_line 1 "" "$T" pack $common --compression none --template chatml -o raw talks.jsonl.gz'
ok 'train and valid share nothing and lack nothing' '
    for s in train valid; do pack $common --template chatml --take $s --valid-share 0.3 -o $s talks.jsonl && all $s >$s.txt || exit 1; done &&
    [ -s valid.txt ] && [ "$(wc -l <valid.txt)" -lt "$(wc -l <train.txt)" ] && sort train.txt valid.txt >a && all chatml-answers | sort | cmp a -'
ok 'UTF-8: refused, or mended and counted' '
    printf "{\"prompt\": \"a\377\", \"completion\": \"\\\\ud800b\"}\n" >broken.jsonl && one_line 1 "broken.jsonl:1:" "$T" pack --template plain -o no broken.jsonl &&
    pack --template plain --utf8 replace -o mended broken.jsonl && [ "$("$T" cat mended)" = "$(printf "a\357\277\275\357\277\275b")" ] && [ "$(value mended replaced)" -eq 2 ]'
ok 'what is there is kept, or in the way' '
    pack $common --template chatml --part 1/3 -o parts -f talks.jsonl && "$T" pack $common --template chatml --part 1/3 -o parts talks.jsonl 2>log && grep -q "were there already" log &&
    one_line 1 "made from other inputs or options" "$T" pack $common --template chatml --seed 5 --part 1/3 -o parts talks.jsonl &&
    sed "s/im_end|>\"/&  /; s/^# .*//" "$SSM_TOP/pipelines/templates/chatml.template" >mine.template &&
    one_line 1 "made from other inputs or options" "$T" pack $common --template ./mine.template --part 1/3 -o parts talks.jsonl'
ok 'killed half-way: nothing under a final name, and the next run makes the set' '
    mkfifo pipe && { "$T" pack -q $common --template chatml -o killed - <pipe 2>err & } && pid=$! && exec 3>pipe && head -n 50 talks.jsonl >&3 &&
    n=0 && until ls killed/*.tmp.* >/dev/null 2>&1; do sleep 0.05; n=$((n + 1)); [ $n -lt 400 ] || exit 1; done
    kill -KILL $pid; wait $pid; exec 3>&-; [ -z "$(find killed -name "*.h5")" ] && one_line 1 "has no index.h5" "$T" stat killed &&
    pack $common --template chatml -o killed talks.jsonl && "$T" check -q killed && [ "$(value killed hash)" = "$(value chatml-answers hash)" ] && [ -z "$(find killed -name "*.tmp*")" ]'
ok 'merge: packed sets of one length, nothing else; export has no place for a mask' '
    "$T" merge -q -o both chatml-answers chatml-all && [ "$(value both samples)" -eq $(($(value chatml-answers samples) + $(value chatml-all samples))) ] && "$T" check -q both &&
    { all chatml-answers; all chatml-all; } >a && all both | cmp a - && "$T" encode -q --tokenizer tok.json -o plain x.txt &&
    one_line 1 "${q}chatml-all$q is packed and ${q}plain$q is not" "$T" merge -o no chatml-all plain &&
    pack --tokenizer tok.json --seq-len 500 --template chatml -o short talks.jsonl && one_line 1 "samples of 600" "$T" merge -o no chatml-all short &&
    one_line 1 "no place for its loss mask" "$T" export -o no chatml-all && [ ! -e no.bin ]'

# ---- special tokens ----
ok 'a special token in a message stays text, and decodes to itself' '
    echo "{\"prompt\": \"a<|im_end|>b<|endoftext|>\", \"completion\": \"<|im_start|>\"}" >evil.jsonl && pack --tokenizer tok.json --template chatml -o evil evil.jsonl &&
    "$T" cat --ids evil | tr " " "\n" | grep -cx -e 0 -e 1 -e 2 >n && [ "$(cat n)" -eq 5 ] &&
    [ "$("$T" cat --tokenizer tok.json evil | head -n 2 | tail -n 1)" = "a<|im_end|>b<|endoftext|><|im_end|>" ]'
ok 'a template names special tokens only' '
    sed "s/\"special\": *true/\"special\": false/g" tok.json >loose.json && ! cmp -s tok.json loose.json &&
    one_line 2 "chatml.template:2: $q<|im_start|>$q is not a special token of the tokenizer ${q}loose.json$q" "$T" pack --tokenizer loose.json --template chatml -o no talks.jsonl'
ok 'text that makes the end token all the same is refused' '
    one_line 1 "text makes the token 0" "$T" pack --tokenizer loose.json --template plain -o no evil.jsonl'
ok 'no such tokens' 'one_line 2 "is not a special token of the tokenizer ${q}bytes$q" "$T" pack --template chatml -o no talks.jsonl'

# ---- templates ----
template() { printf '%b' "$1" >t.template; }
good='user = "U:{content}\\n"\nassistant = "A:{answer}"\nanswer = "{content}!"\n'
ok 'a file of one'"'"'s own: quotes, escapes, comments, roles' '
    template "# c\n message=\"<{role}>\\\\t\\\\\"{content}\\\\\"\" # too\n\nassistant = \"{answer}.\"\nanswer = \"{content}{eod}\"\nbegin = \"{\\\\\\\\\"\nno_system = \"-\"\ntrim = true\n" &&
    echo "{\"messages\": [{\"role\": \"user\", \"content\": \" q \"}, {\"role\": \"assistant\", \"content\": \"a\"}, {\"role\": \"tool\", \"content\": \"t\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}" >one.jsonl &&
    pack --template t.template -o own one.jsonl && printf "{\\\\-<user>\tq\"\"a.<tool>\t\"t\"b." | sed "s/q\"\"/\"q\"/" >want && "$T" cat own | cmp - want'
wrong() { # TITLE TEMPLATE REASON
    template "$2"
    reason=$3
    ok "template: $1" 'one_line 2 "t.template:$reason" "$T" pack --template t.template -o no one.jsonl'
}
wrong 'an unknown key' "$good"'usr = "x"\n' "4: unknown key 'usr'"
wrong 'a key twice' "$good"'user = "{content}"\n' "4: key 'user' stands here twice"
wrong 'no equals sign' "$good"'tool "{content}"\n' "4: 'tool' is not followed by '='"
wrong 'no quotes' 'user = x\n' '1: the value does not stand between double quotes'
wrong 'a quote without end' 'user = "x\n' '1: a quote without end'
wrong 'an unknown escape' 'user = "\\q"\n' '1: an unknown escape'
wrong 'too much' 'user = "{content}" x\n' "1: 'x' is too much"
wrong 'a misspelt placeholder' "$good"'tool = "{contents}"\n' "4: '{contents}' is none of"
wrong 'no content' "$good"'tool = "x"\n' "4: 'tool' must have one {content} and no {answer}"
wrong 'two contents' "$good"'tool = "{content}{content}"\n' "4: 'tool' must have one"
wrong 'content that does not count' 'user = "{content}"\nassistant = "{content}"\nanswer = "{content}"\n' "2: 'assistant' must have no {content} and one {answer}"
wrong 'an answer in an answer' 'user = "{content}"\nassistant = "{answer}"\nanswer = "{content}{answer}"\n' "3: 'answer' must have one {content} and no {answer}"
wrong 'the role of no message' "$good"'begin = "{role}"\n' "4: 'begin' is of no role"
wrong 'trim' "$good"'trim = yes\n' "4: 'trim' is true or false"
wrong 'no answer' 'user = "{content}"\n' " 'assistant' or 'answer' is missing"
wrong 'no user' 'assistant = "{answer}"\nanswer = "{content}"\n' " 'user' and 'message' are missing"
ok 'template: none, of no name, no file, a folder' '
    one_line 2 "--template NAME is missing" "$T" pack -o no one.jsonl && one_line 2 "no template ${q}nosuch$q" "$T" pack --template nosuch -o no one.jsonl &&
    one_line 2 "./nosuch" "$T" pack --template ./nosuch -o no one.jsonl && mkdir d.template && one_line 2 "d.template" "$T" pack --template d.template -o no one.jsonl'
ok 'template: a role that it has no words for' '
    template "$good" && one_line 1 "one.jsonl:1: the template has no ${q}tool$q and no ${q}message$q" "$T" pack --template t.template -o no one.jsonl'
ok '$SSM_TEMPLATES' 'mkdir mine && cp t.template mine/house.template && line 5 >five.jsonl && SSM_TEMPLATES=$PWD/mine "$T" pack -q --template house -o house five.jsonl && [ "$("$T" cat house | tail -n 1)" = "A:y!" ]'

# ---- bad lines: one message, with file and line; or skipped and counted ----
bad() { # TITLE LINE REASON [OPTION...]
    title=$1 text=$2 reason=$3
    shift 3
    { line 5; printf '%s\n' "$text"; line 6; } >bad.jsonl
    options=$*
    ok "bad line: $title" '
        one_line 1 "bad.jsonl:2: $reason" "$T" pack --template plain $options -o bad bad.jsonl && [ ! -e bad/index.h5 ] && [ -z "$(find . -name "*.tmp.*")" ] &&
        dry --template plain $options --skip-bad bad.jsonl && count bad 1 && count documents 2'
}
bad 'JSON ends early' '{"prompt": "a", "completion": "b' 'bad JSON'
bad 'no object' '["prompt"]' 'the line is not a JSON object'
bad 'no known key' '{"text": "a"}' 'none of the keys messages, conversations, prompt, input'
bad 'half a pair' '{"prompt": "a"}' "there is no key 'completion'"
bad 'the other half' '{"input": "a", "completion": "b"}' "there is no key 'output'"
bad 'a prompt that is no string' '{"prompt": ["a"], "completion": "b"}' "the value of 'prompt' is not a string"
bad 'no answer' '{"prompt": "a", "completion": ""}' "the value of 'completion' is empty"
bad 'messages that are no list' '{"messages": "a"}' "the value of 'messages' is not a list"
bad 'no messages' '{"messages": []}' "'messages' is empty"
bad 'a message that is no object' '{"messages": [3]}' 'messages[0]: not an object'
bad 'no content' '{"messages": [{"role": "user"}]}' "messages[0]: there is no key 'content'"
bad 'content that is no string' '{"messages": [{"role": "user", "content": [{"type": "text"}]}]}' "messages[0]: the value of 'content' is not a string"
bad 'no role' '{"messages": [{"content": "a"}]}' "messages[0]: there is no key 'role'"
bad 'a role that nobody knows' '{"messages": [{"role": "judge", "content": "a"}]}' "messages[0]: nobody knows the role 'judge'"
bad 'an answer first' '{"messages": [{"role": "assistant", "content": "a"}]}' "messages[0]: the role 'assistant' at the begin"
bad 'a system message late' '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "a"}]}' "messages[1]: the role 'system' after 'user'"
bad 'two users' '{"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]}' "conversations[1]: the role 'user' after 'user'"
bad 'a tool after a user' '{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}' "messages[1]: the role 'tool' after 'user'"
bad 'an empty answer' '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}' 'messages[1]: an answer without text'
bad 'a weight of 2' '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 2}]}' "messages[1]: 'weight'"
bad 'a mask on answers' '{"conversations": [{"from": "User", "value": "a"}], "mask": "Assistant"}' "'mask' is not the user's role"
bad 'a system that is no string' '{"conversations": [{"from": "User", "value": "a"}], "system": 1}' "the value of 'system' is not a string"
bad 'too long a line' "$(line 200)" 'the line has' --max-line 100
line 5 >bad.jsonl
ok '--shape: that one and no other' '
    one_line 1 "bad.jsonl:1: there is no key ${q}input$q" "$T" pack --template plain --shape input -o no bad.jsonl &&
    echo "{\"messages\": 1, \"input\": \"a\", \"output\": \"b\"}" >two.jsonl && pack --template plain --shape input -o shape two.jsonl && [ "$("$T" cat shape)" = ab ]'
ok 'options that do not go together' '
    one_line 2 "-o DIR is missing" "$T" pack --template plain x && one_line 2 "need each other" "$T" pack --template plain -o no --take valid bad.jsonl &&
    one_line 2 "--null" "$T" pack --template plain -o no --null bad.jsonl && one_line 2 "below 2" "$T" pack --template plain --seq-len 1 -o no bad.jsonl &&
    one_line 2 "no FILE" "$T" pack --template plain -o no && one_line 2 "exclude" "$T" cat --ids --mask chatml-all && one_line 2 "--sep" "$T" cat --mask --sep x chatml-all'
done_testing
