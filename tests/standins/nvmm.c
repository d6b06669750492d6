/* A stand-in for libnvbufsurface and for libcuda's calls for EGL, with what the real ones lack.
 *
 * The structures are those of nvbufsurface.h up to DeepStream 7.1 (Jetson Linux 35 and 36), or with -DDEEPSTREAM_9
 * those of DeepStream 9, and of cudaEGL.h. As on a Jetson, the CPU sees what the hardware wrote only after it
 * asked for it (SyncForCpu), memory lives as long as an EGL image of it, CUDA registers without flags only, and
 * block-linear pictures come as arrays. `standin_` functions are the camera's side and the tests'. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
  uint32_t num_planes, width[4], height[4], pitch[4], offset[4], psize[4], bytesPerPix[4];
  void *_reserved[16];
} PlaneParams;

typedef struct {
  void *addr[4], *eglImage;
#ifdef DEEPSTREAM_9
  void *nvmmPtr, *cudaPtr;
#endif
  void *_reserved[4];
} MappedAddr;

typedef struct {
  uint32_t width, height, pitch;
  int colorFormat, layout;
  uint64_t bufferDesc;
  uint32_t dataSize;
  void *dataPtr;
  PlaneParams planeParams;
  MappedAddr mappedAddr;
  void *paramex;
#ifdef DEEPSTREAM_9
  void *cudaBuffer, *_reserved[4];
#else
  void *_reserved[3];
#endif
} SurfaceParams;

typedef struct {
  uint32_t gpuId, batchSize, numFilled;
  bool isContiguous;
  int memType;
  SurfaceParams *surfaceList;
#ifdef DEEPSTREAM_9
  bool isImportedBuf;
#endif
  void *_reserved[4];
} Surface;

typedef struct {
  uint32_t magic;
  int registered;
  unsigned char *base;
  SurfaceParams params;
} Image;

typedef struct {
  void *planes[3];
  unsigned width, height, depth, pitch, planeCount, numChannels;
  int frameType, eglColorFormat, cuFormat;
} EglFrame;

enum { IMAGE = 0x1ae6e, PITCH_LINEAR = 0, SURFACE_ARRAY = 4, NOTHING = -1 };

static int mapped, images, resources, registrations, wrong;
static char refused[64];
static int refuse_after, refuse_status;
static EglFrame told;

/* --- the tests' side -------------------------------------------------------------------------------- */

void standin_reset(void) {
  mapped = images = resources = registrations = wrong = 0;
  refused[0] = 0;
  memset(&told, 0xff, sizeof told);
}

/* From now on the call fails once it went well so often; CUDA's with that status. */
void standin_refuse(const char *call, int after, int status) {
  strncpy(refused, call, sizeof refused - 1);
  refuse_after = after;
  refuse_status = status;
}

/* What CUDA says of every frame instead of the truth, by offset in CUeglFrame. */
void standin_tell(int offset, int value) { memcpy((char *)&told + offset, &value, sizeof value); }

int standin_count(const char *what) {
  if (!strcmp(what, "mapped")) return mapped;
  if (!strcmp(what, "images")) return images;
  if (!strcmp(what, "resources")) return resources;
  if (!strcmp(what, "registrations")) return registrations;
  return wrong;
}

int standin_offset(const char *of) {
#define OFFSET(type, field) \
  if (!strcmp(of, #type "." #field)) return (int)offsetof(type, field);
#define SIZE(type) \
  if (!strcmp(of, #type)) return (int)sizeof(type);
  SIZE(PlaneParams) SIZE(MappedAddr) SIZE(SurfaceParams) SIZE(Surface) SIZE(EglFrame)
  OFFSET(Surface, batchSize) OFFSET(Surface, numFilled) OFFSET(Surface, memType) OFFSET(Surface, surfaceList)
  OFFSET(SurfaceParams, width) OFFSET(SurfaceParams, height) OFFSET(SurfaceParams, colorFormat)
  OFFSET(SurfaceParams, layout) OFFSET(SurfaceParams, bufferDesc) OFFSET(SurfaceParams, dataSize)
  OFFSET(SurfaceParams, planeParams) OFFSET(SurfaceParams, mappedAddr) OFFSET(MappedAddr, eglImage)
  OFFSET(PlaneParams, num_planes) OFFSET(PlaneParams, pitch) OFFSET(PlaneParams, offset)
  OFFSET(EglFrame, width) OFFSET(EglFrame, height) OFFSET(EglFrame, pitch) OFFSET(EglFrame, planeCount)
  OFFSET(EglFrame, frameType) OFFSET(EglFrame, cuFormat)
  return NOTHING;
}

static int refuses(const char *call) { return !strcmp(call, refused) && refuse_after-- <= 0; }

/* --- the camera's side ------------------------------------------------------------------------------ */

static uint32_t aligned(uint32_t value, uint32_t step) { return (value + step - 1) / step * step; }

Surface *standin_make(int width, int height, int format, int layout, int memory, int batch) {
  Surface *surface = calloc(1, sizeof *surface);
  SurfaceParams *params = calloc(batch, sizeof *params);
  PlaneParams *planes = &params->planeParams;
  const bool semi_planar = format == 6 || format == 7 || format == 8 || (format >= 33 && format <= 36);
  const int pixel = semi_planar || format == 1 ? 1 : format < 18 ? 2 : 4;
  planes->num_planes = semi_planar ? 2 : 1;
  uint32_t size = 0;
  for (uint32_t i = 0; i < planes->num_planes; ++i) {
    planes->width[i] = width >> i, planes->height[i] = height >> i, planes->bytesPerPix[i] = pixel << i;
    planes->pitch[i] = aligned(width * pixel, 256);
    planes->offset[i] = size;
    planes->psize[i] = aligned(planes->pitch[i] * planes->height[i], 4096);
    size += planes->psize[i];
  }
  const int file = memfd_create("nvmap", 0);
  if (file < 0 || ftruncate(file, size)) abort();
  params->width = width, params->height = height, params->pitch = planes->pitch[0];
  params->colorFormat = format, params->layout = layout, params->bufferDesc = file, params->dataSize = size;
  surface->batchSize = batch, surface->numFilled = batch, surface->memType = memory;
  surface->surfaceList = params;
  return surface;
}

SurfaceParams *standin_params(Surface *surface) { return surface->surfaceList; }

/* The hardware writes so many bytes of a plane's row. */
void standin_write(Surface *surface, int plane, int row, const void *bytes, int count) {
  const SurfaceParams *p = surface->surfaceList;
  const off_t at = p->planeParams.offset[plane] + (off_t)row * p->planeParams.pitch[plane];
  if (pwrite((int)p->bufferDesc, bytes, count, at) != count) abort();
}

/* True while nobody but the camera wrote into its description. */
int standin_untouched(const Surface *surface) {
  static const MappedAddr nothing;
  return !memcmp(&surface->surfaceList->mappedAddr, &nothing, sizeof nothing);
}

/* As a pool that is taken down: what it said is no longer true, and its file is closed. */
void standin_free(Surface *surface) {
  close((int)surface->surfaceList->bufferDesc);
  memset(surface->surfaceList, 0xdd, sizeof *surface->surfaceList);
  free(surface->surfaceList);
  memset(surface, 0xdd, sizeof *surface);
  free(surface);
}

/* --- libnvbufsurface -------------------------------------------------------------------------------- */

static bool usable(const Surface *surface, int index) {
  struct stat found;
  return (surface->memType == SURFACE_ARRAY || surface->memType == 0) && index == 0 &&
         surface->numFilled == 1 && !fstat((int)surface->surfaceList->bufferDesc, &found);
}

int NvBufSurfaceMap(Surface *surface, int index, int plane, int type) {
  SurfaceParams *p = surface->surfaceList;
  if (refuses("NvBufSurfaceMap") || !usable(surface, index) || type || plane < 0 ||
      plane >= (int)p->planeParams.num_planes || p->mappedAddr.addr[plane])
    return -1;
  p->mappedAddr.addr[plane] = memset(malloc(p->planeParams.psize[plane]), 0xee, p->planeParams.psize[plane]);
  ++mapped;
  return 0;
}

int NvBufSurfaceSyncForCpu(Surface *surface, int index, int plane) {
  SurfaceParams *p = surface->surfaceList;
  if (refuses("NvBufSurfaceSyncForCpu") || !usable(surface, index) || !p->mappedAddr.addr[plane]) return -1;
  const size_t count = p->planeParams.psize[plane];
  const ssize_t got = pread((int)p->bufferDesc, p->mappedAddr.addr[plane], count, p->planeParams.offset[plane]);
  return got == (ssize_t)count ? 0 : -1;
}

int NvBufSurfaceUnMap(Surface *surface, int index, int plane) {
  void **address = &surface->surfaceList->mappedAddr.addr[plane];
  if (index || !*address) {
    ++wrong;
    return -1;
  }
  free(*address);
  *address = NULL;
  --mapped;
  return 0;
}

int NvBufSurfaceMapEglImage(Surface *surface, int index) {
  SurfaceParams *p = surface->surfaceList;
  if (refuses("NvBufSurfaceMapEglImage") || !usable(surface, index) || p->mappedAddr.eglImage) return -1;
  Image *image = calloc(1, sizeof *image);
  image->magic = IMAGE, image->params = *p;
  image->base = mmap(NULL, p->dataSize, PROT_READ, MAP_SHARED, (int)p->bufferDesc, 0);
  if (image->base == MAP_FAILED) {
    free(image);
    return -1;
  }
  p->mappedAddr.eglImage = image;
  ++images;
  return 0;
}

int NvBufSurfaceUnMapEglImage(Surface *surface, int index) {
  Image *image = surface->surfaceList->mappedAddr.eglImage;
  if (index || !image || image->magic != IMAGE || image->registered) {
    ++wrong;
    return -1;
  }
  munmap(image->base, image->params.dataSize);
  image->magic = 0;
  free(image);
  surface->surfaceList->mappedAddr.eglImage = NULL;
  --images;
  return 0;
}

/* --- libcuda ---------------------------------------------------------------------------------------- */

enum { INVALID_VALUE = 1, INVALID_HANDLE = 400 };

int cuGraphicsEGLRegisterImage(void **resource, Image *image, unsigned flags) {
  if (refuses("cuGraphicsEGLRegisterImage")) return refuse_status;
  if (flags || image->magic != IMAGE) return INVALID_VALUE;
  ++image->registered, ++resources, ++registrations;
  *resource = image;
  return 0;
}

int cuGraphicsResourceGetMappedEglFrame(EglFrame *frame, Image *image, unsigned index, unsigned mip) {
  if (refuses("cuGraphicsResourceGetMappedEglFrame")) return refuse_status;
  if (index || mip || !image->registered) return INVALID_VALUE;
  const PlaneParams *planes = &image->params.planeParams;
  memset(frame, 0, sizeof *frame);
  for (unsigned i = 0; i < planes->num_planes; ++i) frame->planes[i] = image->base + planes->offset[i];
  frame->width = image->params.width, frame->height = image->params.height;
  frame->pitch = planes->pitch[0], frame->planeCount = planes->num_planes;
  frame->frameType = image->params.layout == PITCH_LINEAR, frame->cuFormat = 1;
  for (size_t at = 0; at < sizeof told; at += 4) {
    int value;
    memcpy(&value, (char *)&told + at, 4);
    if (value != NOTHING) memcpy((char *)frame + at, &value, 4);
  }
  return 0;
}

int cuGraphicsUnregisterResource(Image *image) {
  if (image->magic != IMAGE || !image->registered) {
    ++wrong;
    return INVALID_HANDLE;
  }
  --image->registered, --resources;
  return refuses("cuGraphicsUnregisterResource") ? refuse_status : 0;
}

int cuGetErrorName(int status, const char **name) {
  *name = status == INVALID_VALUE    ? "CUDA_ERROR_INVALID_VALUE"
          : status == INVALID_HANDLE ? "CUDA_ERROR_INVALID_HANDLE"
          : status == 304            ? "CUDA_ERROR_OPERATING_SYSTEM"
                                     : "CUDA_ERROR_UNKNOWN";
  return 0;
}
