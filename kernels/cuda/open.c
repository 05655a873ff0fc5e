/* open.c - the CUDA backend's entry point: finds the GPU, and fills the table
 * SPDX-License-Identifier: MIT
 *
 * The one symbol that is seen from outside. The kernels are compiled for compute capability 9.0 (Hopper) only: another
 * GPU is refused by name.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <sched.h>
#include <string.h>

#include "gemm.h"
#include "kernels/device.h"
#include "links.h"
#include "memory.h"
#include "plans.h"
#include "runtime.h"
#ifdef SSM_CUDNN
#include "cudnn.h"
#endif

static char reason[512];
static struct device_info about;

static void info(struct device_info *d)
{
    *d = about;
    size_t left = 0, total = 0;
    cuda_note("device", cudaMemGetInfo(&left, &total));
    d->memory_free = (int64_t)left;
    d->memory_total = (int64_t)total;
}

/* cuDNN's attention where it serves the call, else ours. */
static void attn_fwd(const struct attn *a)
{
#ifdef SSM_CUDNN
    if (cudnn_attn_fwd(a))
        return;
#endif
    cuda_attn_fwd(a);
}

static void attn_bwd(const struct attn *a)
{
#ifdef SSM_CUDNN
    if (cudnn_attn_bwd(a))
        return;
#endif
    cuda_attn_bwd(a);
}

static struct backend table = {
    .version = BACKEND_VERSION,
    .name = "cuda",
    .variant = "sm_90a",
    .dtypes = 1 << F32 | 1 << BF16,
    .alloc = memory_alloc,
    .free = memory_free,
    .upload = memory_upload,
    .download = memory_download,
    .ask = memory_ask,
    .answer = memory_answer,
    .host_alloc = memory_host_alloc,
    .host_free = memory_host_free,
    .download_beside = memory_download_beside,
    .join_downloads = memory_join_downloads,
    .wait_downloads = memory_wait_downloads,
    .copy = memory_copy,
    .zero = memory_zero,
    .fault = memory_fault,
    .sync = memory_sync,
    .info = info,
    .mark = memory_mark,
    .between = memory_between,
    .matmul = cuda_matmul,
    .colsum_work = cuda_colsum_work,
    .colsum = cuda_colsum,
    .embed_work = cuda_embed_work,
    .embed_fwd = cuda_embed_fwd,
    .embed_bwd = cuda_embed_bwd,
    .norm_work = cuda_norm_work,
    .norm_fwd = cuda_norm_fwd,
    .norm_bwd = cuda_norm_bwd,
    .gatednorm_work = cuda_gatednorm_work,
    .gatednorm_fwd = cuda_gatednorm_fwd,
    .gatednorm_bwd = cuda_gatednorm_bwd,
    .conv1d_work = cuda_conv1d_work,
    .conv1d_fwd = cuda_conv1d_fwd,
    .conv1d_bwd = cuda_conv1d_bwd,
    .conv1d_step = cuda_conv1d_step,
    .ssd_work = cuda_ssd_work,
    .ssd_fwd = cuda_ssd_fwd,
    .ssd_bwd = cuda_ssd_bwd,
    .ssd_step = cuda_ssd_step,
    .scan_work = cuda_scan_work,
    .scan_fwd = cuda_scan_fwd,
    .scan_bwd = cuda_scan_bwd,
    .scan_step = cuda_scan_step,
    .rglru_work = cuda_rglru_work,
    .rglru_fwd = cuda_rglru_fwd,
    .rglru_bwd = cuda_rglru_bwd,
    .rglru_step = cuda_rglru_step,
    .rope = cuda_rope,
    .attn_work = cuda_attn_work,
    .attn_fwd = attn_fwd,
    .attn_bwd = attn_bwd,
    .attn_step = cuda_attn_step,
    .act_fwd = cuda_act_fwd,
    .act_bwd = cuda_act_bwd,
    .xent_work = cuda_xent_work,
    .xent = cuda_xent,
    .cast = cuda_cast,
    .total = cuda_total,
    .judge = cuda_judge,
    .adamw = cuda_adamw,
    .plans_take = gemm_plans_take,
    .plans_tell = plans_tell,
};

#ifdef SSM_EMULATE

int cuda_processors(void) { return 4; }
int cuda_processors_left(void) { return 4; }

static bool take_gpu(const struct device_options *o, bool *absent)
{
    (void)o;
    *absent = false;
    table.variant = "emulated";
    snprintf(about.name, sizeof about.name, "CUDA emulated on the CPU");
    about.peak[F32] = 1e9; /* made up, so that there is a share of it */
    about.peak[BF16] = 2e9;
    table.links = links_begin();
    return memory_begin(NULL) && gemm_begin(o->tf32, about.name);
}

#else

static int processors, held;

int cuda_processors(void) { return processors; }
void cuda_hold(int n) { held = n < processors / 2 ? n : processors / 2; }
int cuda_processors_left(void) { return processors - held; }

/* Keeps this process to the cores that are near the GPU, of those that it may use; a guest system that does not tell
 * leaves it where it is. */
static void stay_near(int gpu)
{
    char id[32], path[96], list[4096];
    if (cudaDeviceGetPCIBusId(id, sizeof id, gpu))
        return;
    for (char *c = id; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/local_cpulist", id);
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    cpu_set_t may, near;
    CPU_ZERO(&near);
    bool told = fgets(list, sizeof list, f) && sched_getaffinity(0, sizeof may, &may) == 0;
    fclose(f);
    for (char *s = list; told && isdigit((unsigned char)*s);) { /* 0-15,32-47 */
        long from = strtol(s, &s, 10), to = *s == '-' ? strtol(s + 1, &s, 10) : from;
        for (long c = from; c <= to && c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &may))
                CPU_SET(c, &near);
        s += *s == ',';
    }
    if (told && CPU_COUNT(&near) > 0)
        sched_setaffinity(0, sizeof near, &near);
}

/* Dense rates and memory bandwidth of the parts that share this chip, from NVIDIA's data sheets. */
static void describe(const struct cudaDeviceProp *p, int driver, bool tf32)
{
    snprintf(about.name, sizeof about.name, "%.60s, %d MiB, CUDA %d.%d", p->name, (int)(p->totalGlobalMem >> 20),
             driver / 1000, driver % 1000 / 10);
    bool pcie = strstr(p->name, "PCIe") || strstr(p->name, "NVL");
    about.peak[BF16] = pcie ? 0 : 989.4e12;
    about.peak[F32] = pcie ? 0 : tf32 ? 494.7e12 : 66.9e12;
    about.bandwidth = strstr(p->name, "H200") ? 4.8e12 : strstr(p->name, "H100") && !pcie ? 3.35e12 : 0;
}

static bool take_gpu(const struct device_options *o, bool *absent)
{
    int driver = 0, runtime = 0, gpus = 0;
    *absent = true;
    cudaRuntimeGetVersion(&runtime);
    if (cudaDriverGetVersion(&driver) || driver == 0) {
        snprintf(reason, sizeof reason, "there is no NVIDIA driver on this host");
        return false;
    }
    int e = cudaGetDeviceCount(&gpus);
    if (e == cudaErrorNoDevice || (!e && gpus == 0)) {
        snprintf(reason, sizeof reason, "there is no GPU on this host, or CUDA_VISIBLE_DEVICES hides it");
        return false;
    }
    *absent = false;
    if (driver / 1000 < runtime / 1000) {
        snprintf(reason, sizeof reason, "the NVIDIA driver serves CUDA %d.%d, this program needs %d.0 or newer",
                 driver / 1000, driver % 1000 / 10, runtime / 1000);
        return false;
    }
    int gpu = gpus > 0 ? o->local_rank % gpus : 0;
    struct cudaDeviceProp p;
    if (!e)
        e = cudaGetDeviceProperties(&p, gpu);
    if (e) {
        snprintf(reason, sizeof reason, "GPU %d: %s", gpu, cudaGetErrorString((cudaError_t)e));
        return false;
    }
    if (p.major != 9 || p.minor != 0) {
        snprintf(reason, sizeof reason, "GPU %d is a %.80s of compute capability %d.%d; the kernels are made for 9.0 (H100, H200)",
                 gpu, p.name, p.major, p.minor);
        return false;
    }
    cudaStream_t stream;
    e = cudaSetDevice(gpu);
    if (!e)
        e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e) {
        snprintf(reason, sizeof reason, "GPU %d (%.80s): %s", gpu, p.name, cudaGetErrorString((cudaError_t)e));
        return false;
    }
    processors = p.multiProcessorCount;
    describe(&p, driver, o->tf32);
    stay_near(gpu);
    if (!memory_begin(stream) || !gemm_begin(o->tf32, p.name)) {
        const char *why = memory_sync();
        snprintf(reason, sizeof reason, "GPU %d (%.80s): %.300s", gpu, p.name, why ? why : "did not start");
        return false;
    }
    table.links = links_begin();
#ifdef SSM_CUDNN
    int cudnn = cudnn_begin();
    size_t n = strlen(about.name);
    if (cudnn)
        snprintf(about.name + n, sizeof about.name - n, ", cuDNN %d.%d", cudnn / 10000, cudnn / 100 % 100);
#endif
    return true;
}

#endif

__attribute__((visibility("default"))) const struct backend *ssm_device_open(int version, const struct device_options *o,
                                                                            const char **why, bool *absent);

const struct backend *ssm_device_open(int version, const struct device_options *o, const char **why, bool *absent)
{
    *why = reason;
    *absent = false;
    if (version != BACKEND_VERSION) {
        snprintf(reason, sizeof reason, "the CUDA backend is of version %d, these tools need %d", BACKEND_VERSION, version);
        return NULL;
    }
    return take_gpu(o, absent) ? &table : NULL;
}
