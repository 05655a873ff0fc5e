# Makefile - the only build file of ssmtools
# SPDX-License-Identifier: MIT
#
#   make demo    the main job: real text -> shards -> trained model -> merged checkpoint -> scores, report
#   make check   every test
#   make check-gpu   the device code on the GPUs of this machine
#   make check-slurm   trainings on a Slurm that is made for it, with faults (minutes; needs root)
#   make fuzz    the readers of other people's files, SECONDS_EACH=60, with clang
#   make info    what was detected and what the knobs are set to
#
# Knobs (command line, environment, or a local config.mk that git ignores):
#   DEBUG=1            -O1 -g, assertions of the libraries
#   SAN=1              AddressSanitizer and UndefinedBehaviorSanitizer
#   MATMUL=dnnl|cblas  the library behind matrix products on the CPU
#   CUDA=0|1           device code; detected by nvcc
#   CUDNN_FRONTEND=DIR cuDNN's header-only front end, for attention by cuDNN; detected beside CUDA
#   SENTENCEPIECE=0|1  its model files as tokenizers; detected by pkg-config and g++
#   V=1                print commands;  O=DIR build elsewhere;  PREFIX= DESTDIR= for install

MAKEFLAGS += --warn-undefined-variables -rR --no-print-directory
.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
SHELL := /bin/sh
-include config.mk

VERSION := 0.1.0
DEBUG ?= 0
SAN   ?= 0
MATMUL ?= dnnl
CUDA  ?= $(if $(shell command -v nvcc 2>/dev/null),1,0)
SENTENCEPIECE ?= $(if $(shell pkg-config --exists sentencepiece 2>/dev/null && command -v g++ 2>/dev/null),1,0)
V     ?= 0
PREFIX ?= /usr/local
DESTDIR ?=
WERROR ?= 0
CORPUS ?=
MODEL ?=
Q := $(if $(filter 1,$(V)),,@)

VARIANT := $(if $(filter 1,$(SAN)),san,$(if $(filter 1,$(DEBUG)),debug,release))
O ?= build/$(VARIANT)

CC := $(if $(filter default undefined,$(origin CC)),gcc,$(CC))
CXX := $(if $(filter default undefined,$(origin CXX)),g++,$(CXX))
AR := ar
LD := ld
OBJCOPY := objcopy
ARCH := $(shell uname -m)

# ---- flags ----
comma := ,
PKG := hdf5 libzstd zlib libxxhash jansson libpcre2-8 libutf8proc mpich
PKG_CFLAGS = $(shell pkg-config --cflags $(PKG) 2>/dev/null | sed 's/-I/-isystem /g')
PKG_LIBS   = $(shell pkg-config --libs $(filter-out mpich,$(PKG)) 2>/dev/null) -lmpich
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith \
        -Wwrite-strings -Werror=implicit-function-declaration $(if $(filter 1,$(WERROR)),-Werror)
OPT_release := -O2 -g -DNDEBUG
OPT_debug := -O1 -g
OPT_san := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
EXTRA_CFLAGS ?=
BASE_CFLAGS = -std=c11 -D_POSIX_C_SOURCE=200809L -pthread -fopenmp $(OPT_$(VARIANT)) $(WARN) $(EXTRA_CFLAGS)
ALLC = $(BASE_CFLAGS) -I. -Ikernels -Itests -I$O/gen $(PKG_CFLAGS)
# The kernels: neither -ffinite-math-only, a NaN must stay one, nor -fassociative-math, vmath.h rounds by adding
# and subtracting a large number; sums that run in vector lanes say so in the source.
KOPT_release := -O3 -g
KOPT_debug := -O1 -g
KOPT_san := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
KERNEL_C = -std=c11 -D_POSIX_C_SOURCE=200809L -fopenmp $(KOPT_$(VARIANT)) $(WARN) $(EXTRA_CFLAGS) -I. \
        -ffp-contract=fast -fno-math-errno -fno-trapping-math
MATMUL_LIBS := $(if $(filter cblas,$(MATMUL)),-lopenblas,-ldnnl)
MATMUL_C := $(if $(filter cblas,$(MATMUL)),-DSSM_CBLAS,)
# The one C++ file, and what it is for; tools that tokenise nothing do without.
CXXFLAGS_ALL = -std=c++17 -pthread $(OPT_$(VARIANT)) -Wall -Wextra $(if $(filter 1,$(WERROR)),-Werror) $(EXTRA_CFLAGS) -I. \
        $(shell pkg-config --cflags sentencepiece 2>/dev/null | sed 's/-I/-isystem /g')
SPM_C := -DSSM_SENTENCEPIECE=$(SENTENCEPIECE)
SPM_LIBS := $(if $(filter 1,$(SENTENCEPIECE)),-Wl$(comma)--push-state$(comma)--as-needed -lsentencepiece -lstdc++ -Wl$(comma)--pop-state)
# polite.c stands in front of functions of shared libraries: nothing else pulls it out of the archive.
LDFLAGS += -Wl,-u,ucp_worker_progress -pthread -fopenmp $(if $(filter 1,$(SAN)),-fsanitize=address$(comma)undefined,)
LIBS = $(PKG_LIBS) $(MATMUL_LIBS) $(SPM_LIBS) -lm -ldl

# ---- sources ----
COMMON_SRC := $(filter-out common/io/h5zstd_plugin.c,$(wildcard common/*/*.c))
KERNEL_PLAIN := $(wildcard kernels/backend.c kernels/cost.c kernels/device.c kernels/matmul.c kernels/profile.c)
KERNEL_SRC := $(filter-out $(KERNEL_PLAIN),$(wildcard kernels/*.c))
# One set of kernels an instruction set; the program takes the best that the machine has. Sanitizers get one.
ISA := $(if $(filter 1,$(SAN)),generic,$(if $(filter x86_64,$(ARCH)),v2 v3 v4,generic))
ISA_FLAGS_v2 := -march=x86-64-v2
ISA_FLAGS_v3 := -march=x86-64-v3
ISA_FLAGS_v4 := -march=x86-64-v4 -mprefer-vector-width=512
ISA_FLAGS_generic := $(if $(filter 1x86_64,$(SAN)$(ARCH)),-march=x86-64-v3)
ISA_DEFS := $(if $(filter generic,$(ISA)),-DCPU_ONE_VARIANT)
TOOLS := $(patsubst tools/%.c,%,$(wildcard tools/*.c))
# Programs of several files: tests/ops.c and tests/ops_*.c
TEST_SETS := ops device precision
TEST_PARTS := $(wildcard $(TEST_SETS:%=tests/%_*.c))
TEST_BINS := $(patsubst tests/%.c,%,$(filter-out $(TEST_PARTS),$(wildcard tests/*.c)))

LIB_OBJ := $(COMMON_SRC:%.c=$O/%.o) $(if $(filter 1,$(SENTENCEPIECE)),$O/common/text/sentencepiece_shim.o) $(KERNEL_PLAIN:%.c=$O/%.o) $(if $(KERNEL_SRC),$(ISA:%=$O/kernels/cpu-%.o))
TOOL_BIN := $(TOOLS:%=$O/bin/%)
TEST_BIN := $(TEST_BINS:%=$O/tests/%)
PLUGIN := $(if $(wildcard common/io/h5zstd_plugin.c),$O/lib/libh5zstd.so)
# The CUDA backend, a shared object that the tools load; and the same kernels on an emulation, for the tests: this one is what
# sanitizers look at.
CUDA_SRC := $(wildcard kernels/*.cu)
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc 2>/dev/null)))
CUDA_SO := $(if $(filter 1,$(SAN)),,$(if $(filter 1,$(CUDA)),$O/lib/libssmcuda.so))
EMULATED := $(if $(shell command -v $(CXX) 2>/dev/null),$O/lib/libssmcuda-emulated.so)
CUDA_SYMBOLS := kernels/cuda/symbols.map

.PHONY: all tools tests plugin emulated info deps demo check check-unit check-long check-slurm check-slurm-long check-gpu perf fuzz lint format install bundle clean force
all: tools
tools: $(TOOL_BIN) $(PLUGIN) $(CUDA_SO)
tests: $(TEST_BIN) $(if $(filter 1,$(SAN)),,$(EMULATED))
plugin: $(PLUGIN)
emulated: $(EMULATED)

# ---- rules ----
# A stamp holds the command; it changes, and with it every object, only when the command does.
define stamp
$O/$(1): force
	@mkdir -p $$(@D); printf '%s\n' '$(2)' | cmp -s - $$@ || printf '%s\n' '$(2)' >$$@
endef
$(eval $(call stamp,cflags,$$(CC) $$(ALLC) $$(MATMUL_C) $$(ISA_DEFS)))
$(eval $(call stamp,spmflags,$$(CXX) $$(CXXFLAGS_ALL) $$(SPM_C)))
$(eval $(call stamp,kflags,$$(CC) $$(KERNEL_C) $$(ISA)))
$(eval $(call stamp,ldflags,$$(CC) $$(LDFLAGS) $$(LIBS) $$(LIB_OBJ)))

$O/gen/buildinfo.h: force
	@mkdir -p $(@D); { \
	printf '#define SSM_VERSION "%s%s"\n' '$(VERSION)' \
	  "$$(git describe --always --dirty 2>/dev/null | sed 's/^/-g/')"; \
	printf '#define SSM_BUILD "build: $(VARIANT), %s\\nmatmul: $(MATMUL)\\nhdf5: %s\\nmpi: mpich %s\\nzstd: %s\\nsentencepiece: %s\\n"\n' \
	  "$$($(CC) --version | head -n 1 | tr -d '"')" "$$(pkg-config --modversion hdf5)" \
	  "$$(pkg-config --modversion mpich)" "$$(pkg-config --modversion libzstd)" \
	  "$(if $(filter 1,$(SENTENCEPIECE)),$$(pkg-config --modversion sentencepiece),none)"; } >$@.new; \
	cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$O/%.o: %.c $O/cflags | $O/gen/buildinfo.h
	@mkdir -p $(@D)
	$Q$(CC) $(ALLC) $(if $(filter kernels/%,$<),$(MATMUL_C) $(ISA_DEFS)) $(if $(filter %/sentencepiece.c,$<),$(SPM_C)) -MMD -MP -c -o $@ $<

$O/common/text/sentencepiece.o: $O/spmflags
$O/%.o: %.cc $O/spmflags
	@mkdir -p $(@D)
	$Q$(CXX) $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<

define isa_rules
$O/kernels/$(1)/%.o: kernels/%.c $O/kflags
	@mkdir -p $$(@D)
	$$Q$$(CC) $$(KERNEL_C) $$(ISA_FLAGS_$(1)) -DCPU_TABLE=backend_cpu_$(1) '-DCPU_VARIANT="$(if $(filter v%,$(1)),x86-64-)$(1)"' -MMD -MP -c -o $$@ $$<
# All of one set in one object of which only the table is seen, so that the sets do not clash.
$O/kernels/cpu-$(1).o: $$(KERNEL_SRC:kernels/%.c=$O/kernels/$(1)/%.o)
	$$Q$$(LD) -r -o $$@.all $$^ && $$(OBJCOPY) --keep-global-symbol=backend_cpu_$(1) $$@.all $$@ && rm $$@.all
endef
$(foreach i,$(ISA),$(eval $(call isa_rules,$(i))))

$O/libssm.a: $(LIB_OBJ)
	@rm -f $@
	$Q$(AR) qcs $@ $^

$O/bin/%: $O/tools/%.o $O/libssm.a $O/ldflags
	@mkdir -p $(@D)
	$Q$(CC) $(LDFLAGS) -o $@ $< $O/libssm.a $(LIBS)

$(foreach t,$(TEST_SETS),$(eval $O/tests/$t: $(patsubst %.c,$O/%.o,$(wildcard tests/$t_*.c))))
$O/tests/plans: $O/kernels/cuda/plans.o
$(TEST_BIN): $O/tests/%: $O/tests/%.o $O/libssm.a $O/ldflags
	@mkdir -p $(@D)
	$Q$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $O/libssm.a $(LIBS) -lcmocka

$O/lib/libh5zstd.so: common/io/h5zstd_plugin.c $O/cflags
	@mkdir -p $(@D)
	$Q$(CC) $(filter-out -fsanitize%,$(ALLC)) -fPIC -shared -MMD -MP -MF $O/lib/h5zstd.d -o $@ $< -lzstd

# ---- the CUDA backend ----
# Compiled ahead of time for Hopper alone (sm_90a); other GPUs are refused at start.
NVCC := nvcc
# Attention by cuDNN wants the header-only front end (github.com/NVIDIA/cudnn-frontend, on PyPI nvidia-cudnn-frontend) and cudnn.h.
CUDNN_FRONTEND ?= $(firstword $(dir $(wildcard $(CUDA_HOME)/include/cudnn_frontend.h /usr/local/include/cudnn_frontend.h /usr/include/cudnn_frontend.h)))
CUDA_HOST := memory gemm plans links open $(if $(CUDNN_FRONTEND),cudnn)
NVCC_C = -std=c++17 -O3 -lineinfo -gencode=arch=compute_90a,code=sm_90a -Xcompiler -fPIC$(comma)-fvisibility=hidden -I. -Ikernels
CUDA_C = -std=c11 -D_POSIX_C_SOURCE=200809L -fPIC -fvisibility=hidden -fopenmp $(KOPT_$(VARIANT)) $(WARN) $(EXTRA_CFLAGS) -I. -Ikernels
# -Wno-array-bounds: gcc 12 warns of what stands in branches that a template never takes.
EMULATED_CXX = -x c++ -std=c++17 -DSSM_EMULATE -fPIC -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas -Wno-array-bounds $(KOPT_$(VARIANT)) \
        $(if $(filter 1,$(WERROR)),-Werror) $(EXTRA_CFLAGS) -I. -Ikernels
$(eval $(call stamp,cudaflags,$$(NVCC) $$(NVCC_C) $$(CUDA_C) $$(CUDA_HOME) $$(CUDNN_FRONTEND)))
$(eval $(call stamp,emuflags,$$(CXX) $$(EMULATED_CXX) $$(CUDA_C)))

$O/cuda/%.o: kernels/%.cu $O/cudaflags
	@mkdir -p $(@D)
	$Q$(NVCC) $(NVCC_C) -MMD -MP -c -o $@ $<
$O/cuda/host/%.o: kernels/cuda/%.c $O/cudaflags
	@mkdir -p $(@D)
	$Q$(CC) $(CUDA_C) $(if $(CUDNN_FRONTEND),-DSSM_CUDNN) -isystem $(CUDA_HOME)/include -MMD -MP -c -o $@ $<
$O/cuda/host/%.o: kernels/cuda/%.cc $O/cudaflags
	@mkdir -p $(@D)
	$Q$(CXX) -std=c++17 -O2 -fPIC -fvisibility=hidden -Wall -I. -Ikernels -isystem $(CUDNN_FRONTEND) -isystem $(CUDA_HOME)/include -MMD -MP -c -o $@ $<
$O/lib/libssmcuda.so: $(CUDA_SRC:kernels/%.cu=$O/cuda/%.o) $(CUDA_HOST:%=$O/cuda/host/%.o)
	@mkdir -p $(@D)
	$Q$(CXX) -shared -Wl,--version-script=$(CUDA_SYMBOLS) -Wl,--no-undefined -o $@ $^ -L$(CUDA_HOME)/lib64 -lcublasLt -lcudart_static -lpthread -lrt -ldl -lm

$O/emulated/%.o: kernels/%.cu $O/emuflags
	@mkdir -p $(@D)
	$Q$(CXX) $(EMULATED_CXX) -MMD -MP -c -o $@ $<
$O/emulated/%.o: kernels/%.cc $O/emuflags
	@mkdir -p $(@D)
	$Q$(CXX) $(EMULATED_CXX) -MMD -MP -c -o $@ $<
$O/emulated/host/%.o: kernels/cuda/%.c $O/emuflags
	@mkdir -p $(@D)
	$Q$(CC) $(CUDA_C) -DSSM_EMULATE -MMD -MP -c -o $@ $<
$(EMULATED): $(CUDA_SRC:kernels/%.cu=$O/emulated/%.o) $O/emulated/emulate.o $(patsubst %,$O/emulated/host/%.o,memory gemm_emulated links_emulated plans open runtime_emulated)
	@mkdir -p $(@D)
	$Q$(CXX) -shared -fopenmp -Wl,--version-script=$(CUDA_SYMBOLS) $(if $(filter 1,$(SAN)),-fsanitize=address$(comma)undefined) -o $@ $^ -lrt -lm

-include $(shell find $O -name '*.d' 2>/dev/null)

info:
	@echo 'version   $(VERSION) $(shell git describe --always --dirty 2>/dev/null)'
	@echo 'variant   $(VARIANT) in $O   (DEBUG=$(DEBUG) SAN=$(SAN))'
	@echo 'compiler  $(shell $(CC) --version 2>/dev/null | head -n 1)'
	@echo 'kernels   $(ISA)   (SSM_CPU=$(lastword $(ISA)) at run time takes a lower one)'
	@echo 'matmul    $(MATMUL)   (MATMUL=dnnl|cblas)'
	@for p in $(PKG); do printf '%-9s %s\n' $$p "$$(pkg-config --modversion $$p 2>/dev/null || echo missing: make deps)"; done
	@echo 'sentencepiece $(if $(filter 1,$(SENTENCEPIECE)),$(shell pkg-config --modversion sentencepiece 2>/dev/null || echo missing: make deps),off)   (SENTENCEPIECE=$(SENTENCEPIECE))'
	@echo 'cuda      $(if $(filter 1,$(CUDA)),$(shell nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/toolkit \1/p'); Hopper (sm_90a); attention by $(if $(CUDNN_FRONTEND),cuDNN and )our own,off)   (CUDA=$(CUDA))'

# ---- what people and CI run ----
deps:
	@sh .ci/deps.sh

demo: deps
	+@$(MAKE) tools
	@BIN=$O/bin CORPUS='$(CORPUS)' MODEL='$(MODEL)' sh examples/demo.sh

PROVE := prove -j2 --timer
# Tests take the emulation for the device, also where there is a GPU; those of tests/gpu do not.
# Two tests at a time have two threads each: those that wait must leave the cores to those that work.
TEST_ENV = SSM_CUDA=$(abspath $(EMULATED)) SSM_BIN=$(abspath $O)/bin SSM_TESTS=$(abspath $O)/tests SSM_TOP=$(CURDIR) SSM_PLUGIN=$(abspath $O)/lib OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive

check: deps
	+@$(MAKE) WERROR=1 tools tests
	@$(TEST_ENV) $(PROVE) $(patsubst %,$O/tests/%,$(filter-out mk%,$(TEST_BINS))) $(sort $(wildcard tests/cli/*.t))
	+@$(MAKE) SAN=1 check-unit

# The C tests alone, for another variant: make SAN=1 check-unit. Sanitizers and the emulated device together take many
# minutes: by hand, make SAN=1 emulated, SSM_CUDA=build/san/lib/libssmcuda-emulated.so build/san/tests/device --only OP.
check-unit:
	+@$(MAKE) tests plugin
	@$(TEST_ENV) env $(if $(filter 1,$(SAN)),-u SSM_CUDA) ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 $(PROVE) $(patsubst %,$O/tests/%,$(filter-out mk%,$(TEST_BINS)))

check-long: check
	+@$(MAKE) SAN=1 tools tests emulated
	@$(MAKE) -s SAN=1 run-long
	@$(TEST_ENV) $(PROVE) $(sort $(wildcard tests/long/*.t))
.PHONY: run-long
run-long:
	@$(TEST_ENV) ASAN_OPTIONS=detect_leaks=0 $(PROVE) $(sort $(wildcard tests/cli/*.t))

# On clusters of several nodes that are made and unmade on this machine, one a file (tests/slurm/lab.sh); needs root.
check-slurm: deps
	+@$(MAKE) WERROR=1 tools
	-@sh tests/slurm/lab.sh install
	@$(TEST_ENV) prove -j4 --timer $(filter-out $(SLURM_LONG),$(sort $(wildcard tests/slurm/*.t)))
SLURM_LONG := tests/slurm/9000-kills.t
# What only a GPU can show: there (a build machine without one packs 'make bundle', whose './run check-gpu' does the same).
check-gpu: tools tests
	@$(TEST_ENV) SSM_CUDA= prove -j4 --rules 'seq=tests/gpu/{1000,2500}*.t' --rules 'par=**' --timer $(sort $(wildcard tests/gpu/*.t))
check-slurm-long: check-slurm
	@$(TEST_ENV) prove -v --timer $(SLURM_LONG)

# ---- fuzzing, with clang: one file in tests/fuzz is one target ----
SECONDS_EACH ?= 60
FUZZ_CC ?= clang
FUZZ := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c))
# What the targets reach: a target that reaches further adds it here.
FUZZ_SRC := $(addprefix common/base/,err.c file.c utf8.c mem.c out.c json.c half.c attrs.c opt.c rng.c meter.c) \
        $(addprefix common/text/,docs.c view.c stream.c ungzip.c unzstd.c jsonl.c) common/base/hash.c \
        $(addprefix common/io/,foreign.c safetensors.c torchzip.c pickle.c pickle_names.c pickle_walk.c archive.c) \
        $(addprefix common/io/,idfile.c megatron.c set.c shard.c shard_read.c shard_verify.c) $(addprefix common/io/,h5.c h5_attrs.c h5_chunks.c h5_data.c h5_table.c) \
        $(addprefix common/model/,config.c param.c layer.c mamba2.c mamba1.c griffin.c attention.c mlp.c) \
        $(addprefix common/exchange/,keys.c family.c transformers.c ssm.c megatron.c) \
        $(wildcard common/text/split*.c) \
        $(addprefix common/text/,tokenizer.c added.c bpe.c bytelevel.c hf_tokenizer.c tiktoken.c sentencepiece.c) \
        $(addprefix common/prep/,chat.c chat_template.c)
FUZZ_C = -std=c11 -D_POSIX_C_SOURCE=200809L -pthread -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=undefined \
        -fsanitize=fuzzer$(comma)address$(comma)undefined -Wall -Wextra -I. -Itests/fuzz -Itests -I$O/gen $(PKG_CFLAGS)
fuzz: $(FUZZ:%=$O/fuzz/%)
	@sh tests/fuzz/run.sh '$(abspath $O)/fuzz' '$(SECONDS_EACH)' $(FUZZ)
$(FUZZ:%=$O/fuzz/%): $O/fuzz/%: $O/fuzz/tests/fuzz/%.o $(FUZZ_SRC:%.c=$O/fuzz/%.o)
	$Q$(FUZZ_CC) $(FUZZ_C) -o $@ $^ $(filter-out -lmpich,$(PKG_LIBS)) -lm
$O/fuzz/%.o: %.c Makefile | $O/gen/buildinfo.h
	@command -v $(FUZZ_CC) >/dev/null || { echo 'fuzz: needs clang: apt-get install clang' >&2; exit 1; }
	@mkdir -p $(@D)
	$Q$(FUZZ_CC) $(FUZZ_C) -MMD -MP -c -o $@ $<

perf: tools tests
	@SSM_BIN=$O/bin sh tests/perf/train.sh
	@SSM_BIN=$O/bin sh tests/perf/encode.sh

lint:
	@sh tests/lint.sh

format:
	@clang-format -i $(wildcard tools/*.c common/*/*.[ch] kernels/*.[ch] tests/*.[ch])

install: tools
	@sh pipelines/install.sh '$O' '$(DESTDIR)$(PREFIX)' '$(PREFIX)' '$(VERSION)'

bundle: tools tests
	@sh pipelines/bundle.sh '$O' '$(VERSION)'

clean:
	rm -rf build
