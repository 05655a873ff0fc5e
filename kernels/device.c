/* device.c - opens the backend that a user asks for
 * SPDX-License-Identifier: MIT
 *
 * The CUDA backend is a shared object, so that the tools start where there is no CUDA.
 */
#include "device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char reason[600];

/* Where the object lies; false: nowhere. */
static bool find(char *path, size_t room)
{
    const char *said = getenv("SSM_CUDA");
    if (said && *said) {
        snprintf(path, room, "%s", said);
        return true;
    }
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return false;
    self[n] = '\0';
    for (int i = 0; i < 2; i++) { /* PREFIX/bin/tool */
        char *slash = strrchr(self, '/');
        if (!slash)
            return false;
        *slash = '\0';
    }
    if ((size_t)snprintf(path, room, "%s/lib/libssmcuda.so", self) >= room)
        return false;
    return access(path, F_OK) == 0;
}

/* A driver is there, or that of a Windows host: what does not cost the third of a second that loading CUDA's libraries
 * takes. */
static bool driver_is_there(void) { return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0; }

static const struct backend *open_cuda(const struct device_options *o, const char **why, bool *absent)
{
    char path[4200];
    *why = reason;
    *absent = true;
    if (!find(path, sizeof path)) {
        snprintf(reason, sizeof reason, "these tools were built without CUDA: there is no ../lib/libssmcuda.so beside them");
        return NULL;
    }
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(reason, sizeof reason, "cannot load the CUDA backend: %.500s", dlerror());
        *absent = false; /* `auto` comes here where there is a driver */
        return NULL;
    }
    device_entry *entry;
    *(void **)&entry = dlsym(lib, DEVICE_ENTRY);
    if (!entry) {
        snprintf(reason, sizeof reason, "'%.300s' is not a backend of ssmtools: it has no " DEVICE_ENTRY, path);
        return NULL;
    }
    const struct backend *be = entry(BACKEND_VERSION, o, why, absent);
    if (be && be->version != BACKEND_VERSION) {
        snprintf(reason, sizeof reason, "'%.300s' is of version %d, these tools need %d", path, be->version,
                 BACKEND_VERSION);
        *why = reason;
        return NULL;
    }
    return be;
}

const struct backend *device_open(const char *name, const struct device_options *o, const char **why)
{
    bool absent = true;
    *why = NULL;
    if (strcmp(name, "cpu") == 0 || (strcmp(name, "auto") == 0 && !driver_is_there()))
        return backend_cpu();
    const struct backend *be = open_cuda(o, why, &absent);
    if (be)
        *why = NULL;
    if (strcmp(name, "auto") != 0 || (be && strcmp(be->variant, "emulated") != 0)) /* an emulation is only for who asks */
        return be;
    if (absent)
        *why = NULL;
    return backend_cpu();
}
