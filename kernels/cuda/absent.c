/* absent.c - ops that are not written yet, for the time being (weak) */
#include "cuda.h"
#pragma GCC diagnostic ignored "-Wunused-parameter"
__attribute__((weak)) size_t cuda_colsum_work(const struct colsum *a) { return 64; }
__attribute__((weak)) void cuda_colsum(const struct colsum *a) { cuda_note_text("cuda_colsum", "is not written yet"); }
__attribute__((weak)) void cuda_embed_fwd(const struct embed *a) { cuda_note_text("cuda_embed_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_embed_bwd(const struct embed *a) { cuda_note_text("cuda_embed_bwd", "is not written yet"); }
__attribute__((weak)) size_t cuda_norm_work(const struct norm *a) { return 64; }
__attribute__((weak)) void cuda_norm_fwd(const struct norm *a) { cuda_note_text("cuda_norm_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_norm_bwd(const struct norm *a) { cuda_note_text("cuda_norm_bwd", "is not written yet"); }
__attribute__((weak)) size_t cuda_gatednorm_work(const struct gatednorm *a) { return 64; }
__attribute__((weak)) void cuda_gatednorm_fwd(const struct gatednorm *a) { cuda_note_text("cuda_gatednorm_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_gatednorm_bwd(const struct gatednorm *a) { cuda_note_text("cuda_gatednorm_bwd", "is not written yet"); }
__attribute__((weak)) size_t cuda_conv1d_work(const struct conv1d *a) { return 64; }
__attribute__((weak)) void cuda_conv1d_fwd(const struct conv1d *a) { cuda_note_text("cuda_conv1d_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_conv1d_bwd(const struct conv1d *a) { cuda_note_text("cuda_conv1d_bwd", "is not written yet"); }
__attribute__((weak)) void cuda_conv1d_step(const struct conv1d *a) { cuda_note_text("cuda_conv1d_step", "is not written yet"); }
__attribute__((weak)) size_t cuda_ssd_work(const struct ssd *a) { return 64; }
__attribute__((weak)) void cuda_ssd_fwd(const struct ssd *a) { cuda_note_text("cuda_ssd_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_ssd_bwd(const struct ssd *a) { cuda_note_text("cuda_ssd_bwd", "is not written yet"); }
__attribute__((weak)) void cuda_ssd_step(const struct ssd *a) { cuda_note_text("cuda_ssd_step", "is not written yet"); }
__attribute__((weak)) size_t cuda_scan_work(const struct scan *a) { return 64; }
__attribute__((weak)) void cuda_scan_fwd(const struct scan *a) { cuda_note_text("cuda_scan_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_scan_bwd(const struct scan *a) { cuda_note_text("cuda_scan_bwd", "is not written yet"); }
__attribute__((weak)) void cuda_scan_step(const struct scan *a) { cuda_note_text("cuda_scan_step", "is not written yet"); }
__attribute__((weak)) size_t cuda_rglru_work(const struct rglru *a) { return 64; }
__attribute__((weak)) void cuda_rglru_fwd(const struct rglru *a) { cuda_note_text("cuda_rglru_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_rglru_bwd(const struct rglru *a) { cuda_note_text("cuda_rglru_bwd", "is not written yet"); }
__attribute__((weak)) void cuda_rglru_step(const struct rglru *a) { cuda_note_text("cuda_rglru_step", "is not written yet"); }
__attribute__((weak)) void cuda_rope(const struct rope *a) { cuda_note_text("cuda_rope", "is not written yet"); }
__attribute__((weak)) size_t cuda_attn_work(const struct attn *a) { return 64; }
__attribute__((weak)) void cuda_attn_fwd(const struct attn *a) { cuda_note_text("cuda_attn_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_attn_bwd(const struct attn *a) { cuda_note_text("cuda_attn_bwd", "is not written yet"); }
__attribute__((weak)) void cuda_attn_step(const struct attn *a) { cuda_note_text("cuda_attn_step", "is not written yet"); }
__attribute__((weak)) void cuda_act_fwd(const struct activation *a) { cuda_note_text("cuda_act_fwd", "is not written yet"); }
__attribute__((weak)) void cuda_act_bwd(const struct activation *a) { cuda_note_text("cuda_act_bwd", "is not written yet"); }
__attribute__((weak)) size_t cuda_xent_work(const struct xent *a) { return 64; }
__attribute__((weak)) void cuda_xent(const struct xent *a) { cuda_note_text("cuda_xent", "is not written yet"); }
__attribute__((weak)) void cuda_cast(const struct cast *a) { cuda_note_text("cuda_cast", "is not written yet"); }
__attribute__((weak)) void cuda_adamw(const struct adamw *a) { cuda_note_text("cuda_adamw", "is not written yet"); }
__attribute__((weak)) void cuda_sumsq_parts(const float *p, int64_t n, double *part) { cuda_note_text("cuda_sumsq_parts", "is not written yet"); }
