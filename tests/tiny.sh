# shellcheck shell=sh
# tiny.sh - a text and a model small enough for tests; source it before tap.sh, which changes the folder
# SPDX-License-Identifier: MIT

# tiny_text N: paragraphs of N sentences in all, of a tiny grammar, so that there is something to learn.
tiny_text() {
    awk -v n="$1" 'BEGIN { srand(7); split("the a one every no", d); split("cat dog bird stone river", s); split("sees eats likes fears", v)
        for (i = 0; i < n; i++) { print d[int(rand()*5)+1], s[int(rand()*5)+1], v[int(rand()*4)+1], d[int(rand()*5)+1], s[int(rand()*5)+1] "."
        if (i % 7 == 6) print "" } }'
}

# tiny_model PATTERN: a preset file.
tiny_model() {
    cat <<CONF
pattern = $1
d_model = 32
n_heads = 4
headdim = 8
d_state = 8
chunk = 16
d_inner = 48
lru_width = 32
lru_blocks = 2
rotary_dim = 4
window = 20
attn_heads = 4
attn_kv_heads = 2
attn_headdim = 8
d_ff = 48
tied = true
CONF
}
