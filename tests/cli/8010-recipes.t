#!/bin/sh
# 8010-recipes.t - slurm/spack/package.py and slurm/ssmtools.def: whole, and in step with the Makefile and .ci/deps.sh
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tap.sh"
recipe=$SSM_TOP/slurm/spack/package.py def=$SSM_TOP/slurm/ssmtools.def
if [ ! -e "$def" ]; then
    skip 'recipes' 'no source tree'
    done_testing
fi
if command -v python3 >/dev/null; then
    cat >look.py <<'PY'
import ast, sys
tree = ast.parse(open(sys.argv[1]).read())
cls = [n for n in tree.body if isinstance(n, ast.ClassDef)]
assert len(cls) == 1 and cls[0].name == "Ssmtools" and [b.id for b in cls[0].bases] == ["MakefilePackage"]
for n in cls[0].body:
    if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call):
        c = n.value
        print(c.func.id, c.args[0].value, *("%s=%s" % (k.arg, k.value.value) for k in c.keywords if isinstance(k.value, ast.Constant) and k.arg in ("type", "when")))
    elif isinstance(n, ast.FunctionDef):
        print("def", n.name)
PY
    ok 'Spack: it compiles' 'cp "$recipe" r.py && python3 -m py_compile r.py'
    ok 'Spack: version, variants, methods' 'python3 look.py "$recipe" >directives && grep -qx "version main" directives && grep -qx "variant matmul" directives && grep -qx "variant sentencepiece" directives && grep -qx "def build" directives && grep -qx "def install" directives && grep -q "^license MIT" directives'
    # The libraries that the Makefile looks for, as Spack calls them.
    ok 'Spack: every library of the Makefile' '
        sed -n "s/^PKG := //p" "$SSM_TOP/Makefile" | tr " " "\n" | sed "s/^libzstd\$/zstd/; s/^zlib\$/zlib-api/; s/^libxxhash\$/xxhash/; s/^libpcre2-8\$/pcre2/; s/^libutf8proc\$/utf8proc/" | sort >want && [ "$(wc -l <want)" -ge 8 ] &&
        sed -n "s/^depends_on \([a-z0-9-]*\)[^=]*\$/\1/p" directives | sort >has && diff want has && grep -qx "depends_on hdf5@1.10: ~mpi +threadsafe" directives &&
        grep -qx "depends_on onednn when=matmul=dnnl" directives && grep -qx "depends_on openblas when=matmul=cblas" directives && grep -qx "depends_on sentencepiece when=+sentencepiece" directives'
    ok 'Spack: every knob is one of the Makefile' 'for k in $(sed -n "s/^ *\"\([A-Z]*\)=.*/\1/p" "$recipe"); do grep -q "^$k *[:?]*=" "$SSM_TOP/Makefile" || { echo "$k"; exit 1; }; done; [ "$(grep -c "^ *\"[A-Z]*=" "$recipe")" -ge 6 ]'
else
    skip 'Spack' 'no python3'
fi
ok 'Apptainer: head and sections' '
    grep -qx "Bootstrap: docker" "$def" && grep -qx "From: debian:12" "$def" && grep "^%" "$def" | paste -s -d " " >got && [ "$(cat got)" = "%files %post %environment %runscript %test %labels %help" ]'
section() { sed -n "/^%$1\$/,/^%/{/^%/d;p;}" "$def"; }
ok 'Apptainer: the scripts are shell' 'for s in post environment runscript test; do section $s >s.sh && [ -s s.sh ] && sh -n s.sh || { echo $s; exit 1; }; done'
ok 'Apptainer: the packages are those of make deps' '
    sed -n "/^packages=/,/[^=]'\''/p" "$SSM_TOP/.ci/deps.sh" | tr -d "'\''" | sed "s/^packages=//" | tr -s " " "\n" | sed "/^\$/d" | sort >want && [ "$(wc -l <want)" -ge 20 ] &&
    section post | sed -n "/recommends gcc/,/[^\\\\]\$/p" | sed "s/.*recommends //" | tr -d "\\\\" | tr -s " " "\n" | sed "/^\$/d" | sort | diff want -'
ok 'Apptainer: its test runs, with the tools at hand' 'section test | sed "s|/opt/ssmtools/bin|$SSM_BIN|" >t.sh && SSM_MODELS=$SSM_TOP/pipelines/models sh -e t.sh'
done_testing
