# package.py - recipe of ssmtools for Spack: put (a link to) it into REPO/packages/ssmtools/, then 'spack install ssmtools'
# SPDX-License-Identifier: MIT
import os

from spack.package import *


class Ssmtools(MakefilePackage):
    """Small Unix tools that pre-train, fine-tune and evaluate state-space and hybrid language models."""

    # The tree that this file is linked from; a site with a mirror says that instead.
    homepage = "file://" + os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    git = homepage
    license("MIT")

    version("main", branch="main")

    variant("matmul", default="dnnl", values=("dnnl", "cblas"), multi=False, description="library behind matrix products")
    variant("sentencepiece", default=True, description="its model files as tokenizers")

    depends_on("c", type="build")
    depends_on("cxx", type="build", when="+sentencepiece")
    depends_on("gmake", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpich")
    depends_on("hdf5@1.10: ~mpi +threadsafe")  # the build with MPI is not thread-safe
    depends_on("zstd")
    depends_on("zlib-api")
    depends_on("xxhash")
    depends_on("jansson")
    depends_on("pcre2")
    depends_on("utf8proc")
    depends_on("onednn", when="matmul=dnnl")
    depends_on("openblas", when="matmul=cblas")
    depends_on("sentencepiece", when="+sentencepiece")
    depends_on("gnuplot", type="run")  # the report

    @property
    def knobs(self):
        return [
            "CC=" + spack_cc,
            "CXX=" + spack_cxx,
            "O=build/spack",
            "CUDA=0",
            "MATMUL=" + self.spec.variants["matmul"].value,
            "SENTENCEPIECE=" + ("1" if self.spec.satisfies("+sentencepiece") else "0"),
            "PREFIX=" + self.prefix,
        ]

    def build(self, spec, prefix):
        make("tools", *self.knobs)

    def install(self, spec, prefix):
        make("install", *self.knobs)

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_install(self):
        for tool in ("tokshard", "ssmtrain", "ckmerge", "ssmeval"):
            Executable(os.path.join(self.prefix.bin, tool))("--version")
