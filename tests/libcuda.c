/* A stand-in for the NVIDIA driver, for machines that have none: it says what the environment tells it to say, and computes nothing.

   FAKE_CUDA_VERSION   what cuDriverGetVersion says, for example 12040
   FAKE_CUDA_GPUS      the GPUs, as in "Tesla T4:7:5,NVIDIA H100:9:0"
   FAKE_CUDA_INIT      what cuInit returns: by default 0, which is success, or without a GPU 100, "no device" */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static int gpu(int wanted, char *name, int *major, int *minor) {
    char *gpus = strdup(getenv("FAKE_CUDA_GPUS") ? getenv("FAKE_CUDA_GPUS") : "");
    int count = 0;
    for (char *one = strtok(gpus, ","); one; one = strtok(NULL, ","))
        if (count++ == wanted) sscanf(one, "%255[^:]:%d:%d", name, major, minor);
    free(gpus);
    return count;
}

int cuDriverGetVersion(int *version) { *version = number("FAKE_CUDA_VERSION", 12040); return 0; }
int cuDeviceGetCount(int *count) { char name[256]; int x; *count = gpu(-1, name, &x, &x); return 0; }
int cuInit(unsigned flags) { int count; cuDeviceGetCount(&count); return number("FAKE_CUDA_INIT", count ? 0 : 100); }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)15 << 30; return 0; }
int cuDeviceGetName(char *name, int length, int device) { int x; gpu(device, name, &x, &x); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    char name[256]; int major = 0, minor = 0;
    gpu(device, name, &major, &minor);
    *value = attribute == 75 ? major : minor;
    return 0;
}
int cuGetErrorName(int error, const char **name) {
    *name = error == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
    return 0;
}

/* What libmxnet.so asks for besides. Nothing of it is answered. */
int cuGetErrorString(int error, const char **text) { *text = "the stand-in computes nothing"; return 0; }
int cuDevicePrimaryCtxRetain(void *context, int device) { return 100; }
int cuGraphKernelNodeGetParams(void *a, void *b) { return 100; }
int cuGraphNodeGetType(void *a, void *b) { return 100; }
int cuLaunchKernel(void) { return 100; }
int cuModuleGetFunction(void *a, void *b, const char *c) { return 100; }
int cuModuleLoadData(void *a, const void *b) { return 100; }
int cuModuleLoadDataEx(void *a, const void *b, unsigned c, void *d, void *e) { return 100; }
int cuModuleUnload(void *a) { return 100; }
