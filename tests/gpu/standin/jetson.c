/* Stand-in for two libraries of a Jetson: GStreamer, whose pipeline gives the frames of the file STANDIN_VIDEO, and
 * NvBufSurface, whose EGL images are understood by cuda.c.
 *
 * The file has five 32-bit numbers (width, height, width and height of the pictures, number of frames), and for
 * each frame its NV12 and its BGRx bytes. A frame lies in memory with gaps between its rows, behind which every
 * byte is 0xEE; when its sample is given back, it is overwritten and freed. sta_jetson_left() returns the number of
 * objects and images that were not given back.
 *
 * Settings: STANDIN_FAILS names a function that fails, from the frame STANDIN_FROM on if it is called per frame;
 * STANDIN_BLOCKS makes frames block-linear (CUDA arrays); STANDIN_FORMAT is NvBufSurface's number of their format;
 * STANDIN_GROWS_FROM is the frame from which on they are larger; STANDIN_ERROR_FROM ends the stream with an error.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char *data; size_t pitch; } Array;
typedef struct { int is_array; void *plane[2]; unsigned width, height, pitch; Array arrays[2]; } Image; /* as in cuda.c */
typedef struct { uint32_t count, width[4], height[4], pitch[4], offset[4], size[4], bytes[4]; void *reserved[16]; } Planes;
typedef struct {
  uint32_t width, height, pitch; int format, layout; uint64_t descriptor; uint32_t data_size; void *data;
  Planes planes; void *mapped[4], *egl_image, *reserved[8];
} Parameters;
typedef struct { uint32_t gpu, batch, filled; char is_contiguous; int memory; Parameters *list; void *reserved[4]; } Surface;
typedef struct { uint32_t domain; int code; char *message; } Error;
typedef struct { void *memory; int flags; void *data; size_t size, max_size; void *user[4], *reserved[4]; } MapInfo;
typedef struct {
  char head[72]; uint64_t stamp; /* GstBuffer up to its time stamp */
  int kind, index, which, maps; Surface surface; Parameters parameters; Image image; char *data; size_t size;
} Object;
enum { PIPELINE = 0x51, BUS, SINK, SAMPLE, MESSAGE };

static _Atomic int left, maps; /* several threads take and give back */
static FILE *video;
static int32_t header[5];

static int number(const char *name, int otherwise) { const char *text = getenv(name); return text ? atoi(text) : otherwise; }
static int fails(const char *function, int frame) {
  const char *name = getenv("STANDIN_FAILS");
  return name && !strcmp(name, function) && frame >= number("STANDIN_FROM", 0);
}
static Object *make(int kind) { Object *o = calloc(1, sizeof *o); o->kind = kind; left++; return o; }
static void check(void *p, int kind) {
  if (!p || ((Object *)p)->kind != kind) { fprintf(stderr, "jetson.c: no object of kind %x\n", kind); abort(); }
}
static void drop(Object *o) {
  if (o->maps) { fprintf(stderr, "jetson.c: a mapped buffer is given back\n"); abort(); }
  if (o->data) { memset(o->data, 0xEE, o->size); free(o->data); }
  o->kind = 0, left--, free(o);
}
static Error *error(const char *text) { Error *e = malloc(sizeof *e); *e = (Error){0, 1, strdup(text)}; left++; return e; }
void g_error_free(Error *e) { free(e->message), free(e), left--; }

int gst_init_check(void *a, void *b, void *c) { return 1; }
void *gst_parse_launch(const char *text, Error **e) {
  const char *path = getenv("STANDIN_VIDEO");
  if (fails("gst_parse_launch", 0)) { *e = error("no element \"nvv4l2decoder\""); return 0; }
  video = path ? fopen(path, "rb") : 0;
  if (!video || fread(header, sizeof header, 1, video) != 1) { *e = error("no STANDIN_VIDEO"); return 0; }
  return make(PIPELINE);
}
void *gst_bin_get_by_name(void *p, const char *name) {
  check(p, PIPELINE);
  Object *sink = make(SINK);
  sink->which = !strcmp(name, "pictures");
  return sink;
}
int gst_element_set_state(void *p, int state) { check(p, PIPELINE); return state == 4 && fails("gst_element_set_state", 0) ? 0 : 1; }
void *gst_element_get_bus(void *p) { check(p, PIPELINE); return make(BUS); }
void *gst_bus_timed_pop_filtered(void *bus, uint64_t timeout, int type) {
  check(bus, BUS);
  return type == 2 && getenv("STANDIN_ERROR_FROM") ? make(MESSAGE) : 0;
}
void gst_message_parse_error(void *m, Error **e, char **debug) { check(m, MESSAGE); *e = error("Stream\nis damaged"); }

/* Store the planes of NV12 with gaps between the rows. */
static void fill_frame(Object *s, int width, int height) {
  unsigned pitch = width + 32;
  size_t y_size = (size_t)pitch * height;
  s->size = y_size + y_size / 2, s->data = malloc(s->size);
  memset(s->data, 0xEE, s->size);
  for (int row = 0; row < height * 3 / 2; row++)
    if (fread(s->data + (size_t)row * pitch, width, 1, video) != 1) abort();
  int grows = s->index >= number("STANDIN_GROWS_FROM", 1 << 30) ? 2 : 1, blocks = getenv("STANDIN_BLOCKS") != 0;
  Parameters p = {width * grows, height * grows, pitch, number("STANDIN_FORMAT", 6), blocks};
  p.planes = (Planes){2, {width, width / 2}, {height, height / 2}, {pitch, pitch}, {0, y_size}};
  s->parameters = p;
  s->surface = (Surface){0, 1, 1, 1, number("STANDIN_MEMORY", 4), &s->parameters};
  Image *image = &s->image;
  *image = (Image){blocks, {s->data, s->data + y_size}, width, height, pitch};
  for (int i = 0; i < 2; i++) {
    image->arrays[i] = (Array){image->plane[i], pitch};
    if (blocks) image->plane[i] = &image->arrays[i];
  }
}
void *gst_app_sink_try_pull_sample(void *p, uint64_t timeout) {
  Object *sink = p;
  check(sink, SINK);
  if (sink->index == header[4] || sink->index >= number("STANDIN_ERROR_FROM", 1 << 30)) return 0;
  size_t frame = (size_t)header[0] * header[1] * 3 / 2, picture = (size_t)header[2] * header[3] * 4;
  Object *s = make(SAMPLE);
  s->which = sink->which, s->index = sink->index++, s->stamp = s->index * 66666667ull;
  fseek(video, sizeof header + (frame + picture) * s->index + (s->which ? frame : 0), SEEK_SET);
  if (!s->which) { fill_frame(s, header[0], header[1]); return s; }
  s->size = picture, s->data = malloc(picture);
  if (fread(s->data, picture, 1, video) != 1) abort();
  return s;
}
int gst_app_sink_is_eos(void *p) { check(p, SINK); return ((Object *)p)->index == header[4]; }
void *gst_sample_get_buffer(void *s) { check(s, SAMPLE); return s; }
void *gst_sample_get_caps(void *s) { check(s, SAMPLE); return s; }
void *gst_caps_get_structure(void *s, unsigned index) { check(s, SAMPLE); return index ? 0 : s; }
int gst_structure_get_int(void *s, const char *name, int *value) {
  check(s, SAMPLE);
  *value = header[(((Object *)s)->which ? 2 : 0) + !strcmp(name, "height")];
  return 1;
}
int gst_structure_get_fraction(void *s, const char *name, int *over, int *under) { check(s, SAMPLE); *over = 15, *under = 1; return 1; }
int gst_buffer_map(void *p, MapInfo *info, int flags) {
  Object *s = p;
  check(s, SAMPLE);
  if (flags != 1 || fails("gst_buffer_map", s->index)) return 0;
  s->maps++;
  *info = (MapInfo){0, flags, s->which ? (void *)s->data : &s->surface, s->which ? s->size : sizeof s->surface};
  return 1;
}
void gst_buffer_unmap(void *p, MapInfo *info) { check(p, SAMPLE); ((Object *)p)->maps--; }
void gst_mini_object_unref(void *p) {
  int kind = ((Object *)p)->kind;
  check(p, kind == MESSAGE ? MESSAGE : SAMPLE);
  drop(p);
}
void gst_object_unref(void *p) {
  int kind = ((Object *)p)->kind;
  check(p, kind == SINK || kind == BUS ? kind : PIPELINE);
  drop(p);
}

int NvBufSurfaceMapEglImage(Surface *surface, int index) {
  Object *s = (Object *)((char *)surface - offsetof(Object, surface));
  check(s, SAMPLE);
  if (index || !s->maps || fails("NvBufSurfaceMapEglImage", s->index)) return -1;
  surface->list->egl_image = &s->image, maps++;
  return 0;
}
int NvBufSurfaceUnMapEglImage(Surface *surface, int index) {
  check((char *)surface - offsetof(Object, surface), SAMPLE);
  if (!surface->list->egl_image) abort();
  surface->list->egl_image = 0, maps--;
  return 0;
}
int sta_jetson_left(void) { return left + maps; }
