/* A stand-in for NVIDIA's libnvidia-ml.so.1, for the unmodified client library. The machine it shows is in the text file
   that NVML_STUB names, read anew at each call; without one the driver is not loaded. Its lines (see machine.py):

   driver 550.54.15        cuda 12040            fail nvmlDeviceGetCount_v2 999      (that call returns that error)
   gpu uuid|name|total|used|utilisation|ecc|capability|MIG mode (0, 1; -1: it knows none)|error of every call|XID, at once
   mig GPU's number|uuid|name|total|used
   process GPU's number (of gpu and mig lines together)|compute or graphics|pid|bytes (-1: not told)
*/
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, NOT_LOADED = 9, TIMEOUT = 10,
       LOST = 15, MOST = 32 };

typedef struct { int parent, utilisation, mig, error, xid; long long total, used, ecc; char uuid[96], name[96], capability[8]; } Part;
typedef struct { int part, compute; unsigned pid; long long bytes; } Process;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gi, ci; } ProcessInfo;
typedef struct { void *device; unsigned long long type, data; unsigned gi, ci; } Event;

static Part parts[MOST];
static Process processes[MOST];
static int part_count, process_count, cuda, initialised, registered[MOST], told[MOST];
static char driver[80];

/* Reads the file; the error that `call` is to return, if any. */
static int look(const char *call) {
    part_count = process_count = cuda = 0;
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return NOT_LOADED;
    char line[512], name[64];
    int error = OK, code;
    while (fgets(line, sizeof line, file)) {
        Part *p = &parts[part_count];
        Process *q = &processes[process_count];
        char kind[16];
        if (sscanf(line, "fail %63s %d", name, &code) == 2 && !strcmp(name, call)) error = code;
        if (sscanf(line, "driver %79[^\n]", driver) == 1 || sscanf(line, "cuda %d", &cuda) == 1) continue;
        if (part_count < MOST && sscanf(line, "gpu %95[^|]|%95[^|]|%lld|%lld|%d|%lld|%7[^|]|%d|%d|%d", p->uuid, p->name, &p->total,
                   &p->used, &p->utilisation, &p->ecc, p->capability, &p->mig, &p->error, &p->xid) == 10) {
            p->parent = -1;
            part_count++;
        } else if (part_count < MOST && sscanf(line, "mig %d|%95[^|]|%95[^|]|%lld|%lld", &p->parent, p->uuid, p->name, &p->total, &p->used) == 5) {
            p->utilisation = -1, p->ecc = -1, p->mig = -1, p->error = p->xid = 0, p->capability[0] = 0;
            part_count++;
        } else if (process_count < MOST && sscanf(line, "process %d|%15[^|]|%u|%lld", &q->part, kind, &q->pid, &q->bytes) == 4) {
            q->compute = !strcmp(kind, "compute");
            process_count++;
        }
    }
    fclose(file);
    if (!error && !initialised && strncmp(call, "nvmlInit", 8)) return UNINITIALIZED;
    return error;
}

static int number(const void *device) { return (int)(intptr_t)device - 1; }

static int look_at(const char *call, const void *device, Part **found) {
    int error = look(call), n = number(device);
    if (error) return error;
    if (n < 0 || n >= part_count) return LOST;
    *found = &parts[n];
    return parts[n].error;
}

static void *handle(int n) { return (void *)(intptr_t)(n + 1); }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int error = look(__func__);
    if (!error) initialised++;
    return error;
}

int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    memset(registered, 0, sizeof registered);
    return OK;
}

const char *nvmlErrorString(int error) {
    switch (error) {
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_LOADED: return "Driver Not Loaded";
        case LOST: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    int error = look(__func__);
    if (!error) snprintf(text, size, "%s", driver);
    return error;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    int error = look(__func__);
    *version = cuda;
    return error;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int error = look(__func__);
    *count = 0;
    for (int n = 0; n < part_count; n++) *count += parts[n].parent < 0;
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    int error = look(__func__);
    if (error) return error;
    for (int n = 0; n < part_count; n++)
        if (parts[n].parent < 0 && !index--) {
            *device = handle(n);
            return parts[n].error;
        }
    return INVALID;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    Part *p;
    int error = look_at(__func__, device, &p);
    if (error) return error;
    if (p->mig < 0) return NOT_SUPPORTED;
    *current = *pending = p->mig;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    Part *p;
    *count = 7;
    return look_at(__func__, device, &p);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned slot, void **slice) {
    Part *p;
    int error = look_at(__func__, device, &p);
    if (error) return error;
    for (int n = 0; n < part_count; n++)
        if (parts[n].parent == number(device) && !slot--) {
            *slice = handle(n);
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    Part *p;
    int error = look_at(__func__, device, &p);
    if (!error) snprintf(text, size, "%s", p->uuid);
    return error;
}

int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    Part *p;
    int error = look_at(__func__, device, &p);
    if (!error) snprintf(text, size, "%s", p->name);
    return error;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
    Part *p;
    int error = look_at(__func__, device, &p);
    if (!error) memory[0] = p->total, memory[1] = p->total - p->used, memory[2] = p->used;
    return error;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, void *memory) {
    struct { unsigned version; unsigned long long total, reserved, free, used; } *m = memory;
    Part *p;
    int error = look_at(__func__, device, &p);
    if (!error) m->total = p->total, m->reserved = 0, m->used = p->used, m->free = p->total - p->used;
    return error;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    Part *p;
    int error = look_at(__func__, device, &p);
    if (error) return error;
    if (p->utilisation < 0) return NOT_SUPPORTED;
    rates[0] = rates[1] = p->utilisation;
    return OK;
}

int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *count) {
    Part *p;
    (void)counter;
    int error = look_at(__func__, device, &p);
    if (error) return error;
    if (p->ecc < 0) return NOT_SUPPORTED;
    *count = type == 1 ? p->ecc : 0;
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    Part *p;
    int error = look_at(__func__, device, &p);
    if (error) return error;
    return sscanf(p->capability, "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED;
}

static int list(const char *call, void *device, int compute, unsigned *count, ProcessInfo *infos) {
    Part *p;
    int error = look_at(call, device, &p);
    if (error) return error;
    unsigned found = 0, room = *count;
    for (int n = 0; n < process_count; n++)
        if (processes[n].part == number(device) && processes[n].compute == compute) {
            if (infos && found < room) infos[found] = (ProcessInfo){processes[n].pid, processes[n].bytes, 0, 0};
            found++;
        }
    *count = found;
    return found > room ? SMALL : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, ProcessInfo *infos) {
    return list(__func__, device, 1, count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, ProcessInfo *infos) {
    return list(__func__, device, 0, count, infos);
}

int nvmlEventSetCreate(void **set) {
    *set = registered;
    return look(__func__);
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    Part *p;
    (void)types, (void)set;
    int error = look_at(__func__, device, &p);
    if (!error) registered[number(device)] = 1;
    return error;
}

int nvmlEventSetWait_v2(void *set, Event *event, unsigned timeout) {
    (void)set, (void)timeout;
    int error = look(__func__);
    if (error) return error;
    for (int n = 0; n < part_count; n++)
        if (registered[n] && parts[n].xid && told[n] != parts[n].xid) {
            told[n] = parts[n].xid;
            *event = (Event){handle(n), 8, parts[n].xid, 0, 0};
            return OK;
        }
    return TIMEOUT;
}

int nvmlEventSetFree(void *set) {
    (void)set;
    return OK;
}
