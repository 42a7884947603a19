/* Stand-in for NVIDIA's driver, libcuda.so.1, on CPU memory. It has the functions that the CUDA backends call.
 *
 * It is strict: it checks the type of every handle, that memory is known and large enough, and that the thread
 * has a context. Work runs at once, except during a capture, when it is stored in the graph. sta_left() returns
 * the number of objects that were not freed, sta_retained() how often the context is retained. The function that
 * the environment variable STANDIN_FAILS names is out of memory. As with the driver, any thread may call it.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 1, MEMORY = 2, NOT_INITIALISED = 3, NO_CONTEXT = 201, HANDLE = 400, NOT_FOUND = 500,
       ADDRESS = 700, CAPTURE = 900 };
enum { CONTEXT = 0x11, STREAM, EVENT, GRAPH, EXEC, MODULE, RESOURCE };
typedef int R;
typedef struct Work { int kind; void *to, *from; size_t size; void (*call)(void *); void *data; float *step[4]; struct Work *next; } Work;
typedef struct Thing { int kind; Work *first, **last; int capturing; struct timespec at; int recorded, timed; } Thing;
typedef struct Block { char *at; size_t size; int host; struct Block *next; } Block;

static int initialised;
static _Atomic int left, retained;
static Thing context = {CONTEXT};
static __thread Thing *stack[16];
static __thread int depth;
static __thread Thing *capturing; /* stream that this thread captures; capturing == 2: capture invalidated */
static Block *blocks;
static size_t taken;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for the blocks */
static void unlock(int *held) { pthread_mutex_unlock(&lock); }
#define LOCKED __attribute__((cleanup(unlock))) int held = pthread_mutex_lock(&lock)
static const size_t TOTAL = 1ull << 32;

#define NEEDS_CONTEXT if (!initialised) return NOT_INITIALISED; if (!depth || !stack[depth - 1]) return NO_CONTEXT
#define IS(thing, what) if (!(thing) || (thing)->kind != (what)) return HANDLE

static int fails(const char *function) {
  const char *name = getenv("STANDIN_FAILS");
  return name && !strcmp(name, function);
}
static Thing *make(int kind) { Thing *t = calloc(1, sizeof *t); t->kind = kind; t->last = &t->first; left++; return t; }
static R drop(Thing *t, int kind) { IS(t, kind); t->kind = 0; left--; return OK; } /* not freed, so that a later use is detected */
static int known(void *p, size_t size) {
  LOCKED;
  for (Block *b = blocks; b; b = b->next)
    if ((char *)p >= b->at && (char *)p + size <= b->at + b->size) return 1 + b->host;
  return 0;
}
static R take(void **p, size_t size, int host) {
  NEEDS_CONTEXT;
  if (capturing) { capturing->capturing = 2; return CAPTURE; }
  if (!size) return INVALID;
  if (fails(host ? "cuMemHostAlloc" : "cuMemAlloc")) return MEMORY;
  LOCKED;
  if (taken + size > TOTAL || size > TOTAL) return MEMORY;
  Block *b = malloc(sizeof *b);
  *b = (Block){aligned_alloc(256, (size + 255) / 256 * 256), size, host, blocks};
  memset(b->at, 0xff, size);
  blocks = b, *p = b->at, taken += size, left++;
  return OK;
}
static R give(void *p, int host) {
  NEEDS_CONTEXT;
  LOCKED;
  for (Block **b = &blocks; *b; b = &(*b)->next)
    if ((*b)->at == p && (*b)->host == host) {
      Block *gone = *b; *b = gone->next; taken -= gone->size; left--; free(gone->at); free(gone); return OK;
    }
  return INVALID;
}
static void run(Work *w) {
  if (w->kind == 'c') memmove(w->to, w->from, w->size);
  if (w->kind == 's') memset(w->to, (int)(intptr_t)w->from, w->size);
  if (w->kind == 'h') w->call(w->data);
  if (w->kind == 'k')
    for (size_t i = 0; i < w->size; i++) {
      float frame = w->step[0][i], past = w->step[1][i];
      w->step[2][i] = 0.5f * frame + past, w->step[3][i] = 0.25f * frame + 0.5f * past;
    }
}
static R submit(Thing *s, Work w) {
  NEEDS_CONTEXT; IS(s, STREAM);
  if (!s->capturing) { run(&w); return OK; }
  *s->last = malloc(sizeof w); **s->last = w; s->last = &(*s->last)->next;
  return OK;
}
static R copy(void *to, void *from, size_t size, Thing *s) {
  if (!known(to, size) || !known(from, size)) return INVALID;
  return submit(s, (Work){'c', to, from, size});
}

R cuInit(unsigned flags) { initialised = 1; return flags ? INVALID : OK; }
R cuDriverGetVersion(int *v) { *v = 12060; return OK; }
R cuDeviceGetCount(int *n) { *n = 1; return initialised ? OK : NOT_INITIALISED; }
R cuDeviceGet(int *d, int n) { *d = 0; return !initialised ? NOT_INITIALISED : n ? 101 : OK; }
R cuDeviceGetName(char *name, int size, int d) { snprintf(name, size, "Stand-in"); return d ? 101 : OK; }
R cuDeviceGetAttribute(int *v, int what, int d) {
  *v = what == 75 ? 8 : what == 76 ? 6 : what == 18 ? getenv("STANDIN_INTEGRATED") != 0 : 0;
  return d ? 101 : OK;
}
R cuDevicePrimaryCtxRetain(Thing **c, int d) {
  if (fails("cuDevicePrimaryCtxRetain")) return MEMORY;
  *c = &context; retained++;
  return d ? 101 : OK;
}
R cuDevicePrimaryCtxRelease_v2(int d) { return retained-- > 0 ? OK : 201; }
R cuDevicePrimaryCtxRelease(int d) { return cuDevicePrimaryCtxRelease_v2(d); }
R cuCtxSetCurrent(Thing *c) {
  if (fails("cuCtxSetCurrent")) return MEMORY;
  if (c) { IS(c, CONTEXT); }
  if (!depth) depth = 1;
  stack[depth - 1] = c;
  return OK;
}
R cuCtxPushCurrent_v2(Thing *c) { IS(c, CONTEXT); if (depth == 16) return INVALID; stack[depth++] = c; return OK; }
R cuCtxPopCurrent_v2(Thing **c) { if (!depth) return NO_CONTEXT; *c = stack[--depth]; return OK; }
R cuCtxGetCurrent(Thing **c) { *c = depth ? stack[depth - 1] : 0; return OK; }
R cuCtxGetDevice(int *d) { NEEDS_CONTEXT; *d = 0; return OK; }
R cuCtxDetach(Thing *c) { fprintf(stderr, "cuCtxDetach of a primary context\n"); return NO_CONTEXT; }
R cuCtxSynchronize(void) { NEEDS_CONTEXT; return OK; }

R cuStreamCreate(Thing **s, unsigned flags) { NEEDS_CONTEXT; if (fails("cuStreamCreate")) return MEMORY; if (flags > 1) return INVALID; *s = make(STREAM); return OK; }
R cuStreamDestroy_v2(Thing *s) { return drop(s, STREAM); }
R cuStreamSynchronize(Thing *s) { NEEDS_CONTEXT; IS(s, STREAM); return s->capturing ? CAPTURE : OK; }
R cuStreamWaitEvent(Thing *s, Thing *e, unsigned flags) { NEEDS_CONTEXT; IS(s, STREAM); IS(e, EVENT); return flags ? INVALID : OK; }
R cuLaunchHostFunc(Thing *s, void (*call)(void *), void *data) { return submit(s, (Work){'h', .call = call, .data = data}); }

R cuGetExportTable(const void **table, const void *id) { *table = 0; return id ? NOT_FOUND : INVALID; } /* NVRTC asks */

/* Modules have one function, the kernel of kernel_engine.py. */
R cuModuleLoadData(Thing **m, const void *image) { NEEDS_CONTEXT; *m = make(MODULE); return memcmp(image, "\177ELF", 4) ? 200 : OK; }
R cuModuleUnload(Thing *m) { NEEDS_CONTEXT; return drop(m, MODULE); }
R cuModuleGetFunction(Thing **f, Thing *m, const char *name) { IS(m, MODULE); *f = m; return strcmp(name, "step") ? NOT_FOUND : OK; }
R cuLaunchKernel(Thing *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                 Thing *s, void **parameters, void **extra) {
  IS(f, MODULE);
  Work w = {'k', .size = *(int *)parameters[4]};
  if (gy * gz * by * bz != 1 || gx * bx < w.size || bx > 1024 || shared || extra || *(long long *)parameters[5] <= 0) return INVALID;
  for (int i = 0; i < 4; i++) {
    w.step[i] = *(float **)parameters[i];
    if (!known(w.step[i], w.size * sizeof(float))) return ADDRESS;
  }
  return submit(s, w);
}

R cuEventCreate(Thing **e, unsigned flags) { NEEDS_CONTEXT; if (flags & ~3u) return INVALID; *e = make(EVENT); (*e)->timed = !(flags & 2); return OK; }
R cuEventDestroy_v2(Thing *e) { return drop(e, EVENT); }
R cuEventRecord(Thing *e, Thing *s) {
  NEEDS_CONTEXT; IS(e, EVENT); IS(s, STREAM);
  e->recorded = 1; clock_gettime(CLOCK_MONOTONIC, &e->at);
  return OK;
}
R cuEventSynchronize(Thing *e) { NEEDS_CONTEXT; IS(e, EVENT); return OK; }
R cuEventQuery(Thing *e) { NEEDS_CONTEXT; IS(e, EVENT); return OK; }
R cuEventElapsedTime(float *ms, Thing *a, Thing *b) {
  IS(a, EVENT); IS(b, EVENT);
  if (!a->timed || !b->timed || !a->recorded || !b->recorded) return HANDLE;
  *ms = (b->at.tv_sec - a->at.tv_sec) * 1e3f + (b->at.tv_nsec - a->at.tv_nsec) / 1e6f;
  return OK;
}
R cuEventElapsedTime_v2(float *ms, Thing *a, Thing *b) { return cuEventElapsedTime(ms, a, b); }

R cuMemAlloc_v2(void **p, size_t size) { return take(p, size, 0); }
R cuMemFree_v2(void *p) { return give(p, 0); }
R cuMemHostAlloc(void **p, size_t size, unsigned flags) { return flags & 2 ? take(p, size, 1) : INVALID; }
R cuMemFreeHost(void *p) { return give(p, 1); }
R cuMemHostGetDevicePointer_v2(void **d, void *p, unsigned flags) { *d = p; return flags || known(p, 1) != 2 ? INVALID : OK; }
R cuMemGetInfo_v2(size_t *available, size_t *total) { NEEDS_CONTEXT; if (fails("cuMemGetInfo")) return MEMORY; *available = TOTAL - taken; *total = TOTAL; return OK; }
R cuMemcpyHtoDAsync_v2(void *to, void *from, size_t size, Thing *s) { return copy(to, from, size, s); }
R cuMemcpyDtoHAsync_v2(void *to, void *from, size_t size, Thing *s) { return copy(to, from, size, s); }
R cuMemcpyDtoDAsync_v2(void *to, void *from, size_t size, Thing *s) { return copy(to, from, size, s); }
R cuMemcpyDtoH_v2(void *to, void *from, size_t size) {
  NEEDS_CONTEXT;
  if (!known(from, size)) return INVALID;
  memcpy(to, from, size);
  return OK;
}

/* EGL images are those of jetson.c. One is registered at a time, and its planes can be read only then. */
typedef struct { char *data; size_t pitch; } Array;
typedef struct { int is_array; void *plane[2]; unsigned width, height, pitch; } Image;
typedef struct { void *plane[3]; unsigned width, height, depth, pitch, planes, channels; int type, color, format; } EglFrame;
typedef struct { size_t x, y; int type; void *host; char *device; Array *array; size_t pitch; } Side;
typedef struct { Side from, to; size_t width, height; } Copy;
static Image *registered;
R cuGraphicsEGLRegisterImage(Thing **r, Image *image, unsigned flags) {
  NEEDS_CONTEXT;
  if (fails("cuGraphicsEGLRegisterImage")) return MEMORY;
  if (flags || !image || registered) return INVALID;
  registered = image, *r = make(RESOURCE);
  return OK;
}
R cuGraphicsResourceGetMappedEglFrame(EglFrame *f, Thing *r, unsigned index, unsigned level) {
  NEEDS_CONTEXT; IS(r, RESOURCE);
  Image *i = registered;
  *f = (EglFrame){{i->plane[0], i->plane[1]}, i->width, i->height, 1, i->pitch, 2, 1, !i->is_array, 1, 1};
  return index || level ? INVALID : OK;
}
R cuGraphicsUnregisterResource(Thing *r) { NEEDS_CONTEXT; registered = 0; return drop(r, RESOURCE); }
R cuMemcpy2DAsync_v2(const Copy *c, Thing *s) {
  int plane = registered && (c->from.type == 3 ? (void *)c->from.array : c->from.device) == registered->plane[1];
  if (!registered || c->from.type != 2 + registered->is_array || c->to.type != 2 || c->from.x + c->from.y + c->to.x + c->to.y) return INVALID;
  if (!registered->is_array && (c->from.pitch != registered->pitch || c->from.device != registered->plane[plane])) return INVALID;
  if (registered->is_array && c->from.array != registered->plane[plane]) return INVALID;
  char *from = registered->is_array ? c->from.array->data : c->from.device;
  if (c->width > registered->width || c->height > registered->height >> plane) return INVALID;
  for (size_t row = 0; row < c->height; row++) {
    char *to = c->to.device + row * c->to.pitch;
    if (!known(to, c->width)) return INVALID;
    R code = submit(s, (Work){'c', to, from + row * registered->pitch, c->width});
    if (code) return code;
  }
  return OK;
}
R cuMemsetD8Async(void *to, unsigned char byte, size_t size, Thing *s) {
  if (!known(to, size)) return INVALID;
  return submit(s, (Work){'s', to, (void *)(intptr_t)byte, size});
}

R cuStreamBeginCapture_v2(Thing *s, int mode) {
  NEEDS_CONTEXT; IS(s, STREAM);
  if (s->capturing || mode < 0 || mode > 2) return INVALID;
  s->capturing = 1, s->first = 0, s->last = &s->first, capturing = s;
  return OK;
}
R cuStreamEndCapture(Thing *s, Thing **g) {
  IS(s, STREAM);
  if (!s->capturing) return INVALID;
  capturing = 0, *g = 0;
  if (s->capturing == 2) { s->capturing = 0; return CAPTURE + 1; }
  s->capturing = 0, *g = make(GRAPH), (*g)->first = s->first;
  return OK;
}
R cuGraphInstantiateWithFlags(Thing **x, Thing *g, unsigned long long flags) {
  IS(g, GRAPH);
  *x = make(EXEC), (*x)->first = g->first;
  return flags ? INVALID : OK;
}
R cuGraphLaunch(Thing *x, Thing *s) {
  NEEDS_CONTEXT; IS(x, EXEC); IS(s, STREAM);
  for (Work *w = x->first; w; w = w->next) run(w);
  return OK;
}
R cuGraphDestroy(Thing *g) { return drop(g, GRAPH); }
R cuGraphExecDestroy(Thing *x) { return drop(x, EXEC); }

static const struct { R code; const char *name, *text; } NAMES[] = {
  {OK, "CUDA_SUCCESS", "no error"}, {INVALID, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
  {MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}, {NO_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
  {HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
  {ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
  {CAPTURE, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
  {CAPTURE + 1, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "capture was invalidated"}};
static R look(R code, const char **said, int text) {
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
    if (NAMES[i].code == code) { *said = text ? NAMES[i].text : NAMES[i].name; return OK; }
  *said = 0;
  return INVALID;
}
R cuGetErrorName(R code, const char **said) { return look(code, said, 0); }
R cuGetErrorString(R code, const char **said) { return look(code, said, 1); }

int sta_left(void) { return left; }
int sta_retained(void) { return retained; }

/* The newest of NAME_v3, NAME_v2, NAME, as the driver does for a caller of a new version. */
R cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
  char full[128];
  const char *endings[] = {"_v3", "_v2", "", "WithFlags"};
  *found = 0;
  for (int i = 0; i < 4 && !*found; i++) {
    snprintf(full, sizeof full, "%s%s", name, endings[i]);
    *found = dlsym(RTLD_DEFAULT, full);
    if (!*found) { void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD); if (self) *found = dlsym(self, full); }
  }
  if (status) *status = *found ? 0 : 1;
  return *found ? OK : NOT_FOUND;
}
R cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) { return cuGetProcAddress_v2(name, found, version, flags, 0); }
