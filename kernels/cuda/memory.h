/* memory.h - memory of the device, copies, errors, marks of time: slots of the table (backend.h)
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_CUDA_MEMORY_H
#define SSM_CUDA_MEMORY_H

#include "cuda.h"

/* All of it works on this stream. false: see memory_sync(). */
bool memory_begin(void *stream);
void *memory_alloc(size_t bytes);
void memory_free(void *p);
void memory_upload(void *dev, const void *host, size_t bytes);
void memory_download(void *host, const void *dev, size_t bytes);
void memory_ask(const void *dev, size_t bytes);
void memory_answer(void *host);
void *memory_host_alloc(size_t bytes);
void memory_host_free(void *p);
void memory_download_beside(void *host, const void *dev, size_t bytes);
void memory_join_downloads(void);
const char *memory_wait_downloads(void);
void memory_copy(void *dst, const void *src, size_t bytes);
void memory_zero(void *p, size_t bytes);
const char *memory_fault(void);
const char *memory_sync(void);
int memory_mark(int own);
double memory_between(int from, int to);

#endif
