#!/bin/sh
# 4000-chain.t - text to scores as jobs that wait for each other, with a rank lost on the way
# SPDX-License-Identifier: MIT
nodes=3
. "${0%/*}/slurm.sh"
project chain 4 --steps 400
rm -r chain/*
cat >tasks.jsonl <<'JSON'
{"output_type": "multiple_choice"}
{"context": "the cat sees", "choices": [" the dog.", " zzz"], "gold": 0}
{"context": "a bird eats", "choices": [" xqk", " one stone."], "gold": 1}
JSON
{ echo 'parts = 8'; echo "tasks = $PWD/tasks.jsonl"; } >>chain.conf
sed 's,^work = .*,work = alone,' chain.conf >alone.conf
all_over() { [ -z "$(squeue -h)" ]; }
scenario 'the whole chain by submit.sh: 8 shares, index, training of 2 x 2 ranks with a rank killed, merge, an array of scores, report' '
    "$top/slurm/submit.sh" pretrain chain.conf --site chain.site >plan.log && cat plan.log && job=$(sed -n "s/^train //p" chain/slurm/jobs) && name=chain &&
    poll 90 has_step chain 120 && kill -KILL $(rank n1) && poll 200 all_over && restarted 1 && resumed chain 1 && { [ -s chain/report.html ] || { tail -n 8 chain/slurm/*eval*.out chain/slurm/*report*.out; false; }; }'
# Without Slurm the shares are of one rank as well: the files are part of what a set of data is.
sed 's/^ranks = .*/ranks = 1/' alone.conf >data.conf
{ "$top/pipelines/pretrain.sh" data.conf data && "$top/pipelines/pretrain.sh" alone.conf; } >alone.log 2>&1
scenario 'it makes what pretrain.sh makes without Slurm' '
    same chain alone/run && "$SSM_BIN/ckmerge" compare -q chain/model alone/model && cut -f 3-6 chain/scores.tsv >a && cut -f 3-6 alone/scores.tsv | diff a - &&
    [ "$(wc -l <a)" -ge 2 ] && cut -f 3-6 chain/tasks/tasks.tsv >b && cut -f 3-6 alone/tasks/tasks.tsv | diff b -'
scenario 'it is done, and says so' '"$top/slurm/submit.sh" pretrain chain.conf --site chain.site >plan.log; cat plan.log; [ "$(grep -c "done already" plan.log)" -ge 5 ] && all_over'
done_testing
