// One pass from a camera's raw frame to a network's input tensor: colour, resize, pad, scale, layout,
// type. Rows and planes begin at multiples of four bytes (of two for NV12's chroma).
//
// Each thread owns two neighbouring tensor columns and ROWS rows of them, so that planar halves leave as
// 32 bits. Taps are converted to whole 8-bit RGB before they are blended, as a CPU does that converts the
// frame first; the blend itself is not rounded.
// Bilinear, half-pixel centres, no averaging when shrinking: OpenCV's INTER_LINEAR.
//
// No includes: the same text goes through NVRTC, nvcc, and a host compiler in the tests.

struct Params {
  const unsigned char *plane;   // first pixel of the region that is resized; Y for NV12
  const unsigned char *chroma;  // first UV pair of the region's even-aligned origin; NV12 only
  void *out;                    // first element of the tensor
  unsigned long long frame_bytes;   // from one frame of the batch to the next
  unsigned long long tensor_elements;
  int pitch, chroma_pitch;      // bytes from one row to the next
  int odd_x, odd_y;             // 1 where the region begins inside a chroma pair
  int take_width, take_height;  // region of the frame
  int put_left, put_top, put_width, put_height;  // where it lies in the tensor
  int width, height;            // of the tensor
  int pixel_stride, row_stride; // in elements
  int channel[3];               // where red, green and blue go, in elements
  float step_x, step_y;         // frame pixels per tensor pixel
  float gain[3], bias[3];       // of red, green, blue; value = pixel * gain + bias
  float pad;                    // grey of the border, 0..255
  float y_offset, y_gain;       // colour matrix of YUV formats, in pixels 0..255
  float v_red, u_green, v_green, u_blue;
};

#define ROWS 2

struct Rgb {
  float r, g, b;
};

__device__ __forceinline__ float whole(float value) {
  return rintf(fminf(fmaxf(value, 0.0f), 255.0f));
}

__device__ __forceinline__ Rgb from_yuv(const Params &p, int luma, int u, int v) {
  const float y = ((float)luma - p.y_offset) * p.y_gain;
  const float cb = (float)(u - 128), cr = (float)(v - 128);
  Rgb rgb;
  rgb.r = whole(y + p.v_red * cr);
  rgb.g = whole(y + p.u_green * cb + p.v_green * cr);
  rgb.b = whole(y + p.u_blue * cb);
  return rgb;
}

__device__ __forceinline__ Rgb blend(const Rgb &a, const Rgb &b, float weight) {
  Rgb rgb;
  rgb.r = a.r + (b.r - a.r) * weight;
  rgb.g = a.g + (b.g - a.g) * weight;
  rgb.b = a.b + (b.b - a.b) * weight;
  return rgb;
}

// --- taps: pixel (x, y) of the region, by format ---------------------------------------------------

struct Nv12 {
  static __device__ __forceinline__ Rgb tap(const Params &p, unsigned long long frame, int x, int y) {
    const unsigned char *pair = p.chroma + frame +
        (unsigned)((y + p.odd_y) >> 1) * (unsigned)p.chroma_pitch + (((x + p.odd_x) >> 1) << 1);
    const unsigned uv = *(const unsigned short *)pair;
    return from_yuv(p, p.plane[frame + (unsigned)y * (unsigned)p.pitch + x], uv & 255, uv >> 8);
  }
};

struct Yuyv {
  static __device__ __forceinline__ Rgb tap(const Params &p, unsigned long long frame, int x, int y) {
    // `plane` points at the pair that holds the region's first pixel.
    const int column = x + p.odd_x;
    const unsigned pair = *(const unsigned *)(
        p.plane + frame + (unsigned)y * (unsigned)p.pitch + ((column >> 1) << 2));
    return from_yuv(p, (pair >> ((column & 1) << 4)) & 255, (pair >> 8) & 255, pair >> 24);
  }
};

template <int RED, int BLUE>
struct FourBytes {
  static __device__ __forceinline__ Rgb tap(const Params &p, unsigned long long frame, int x, int y) {
    const unsigned pixel =
        *(const unsigned *)(p.plane + frame + (unsigned)y * (unsigned)p.pitch + (x << 2));
    Rgb rgb;
    rgb.r = (float)((pixel >> (8 * RED)) & 255);
    rgb.g = (float)((pixel >> 8) & 255);
    rgb.b = (float)((pixel >> (8 * BLUE)) & 255);
    return rgb;
  }
};

template <int BYTES, int RED, int GREEN, int BLUE>
struct Packed {
  static __device__ __forceinline__ Rgb tap(const Params &p, unsigned long long frame, int x, int y) {
    const unsigned char *pixel = p.plane + frame + (unsigned)y * (unsigned)p.pitch + x * BYTES;
    Rgb rgb;
    rgb.r = (float)pixel[RED];
    rgb.g = (float)pixel[GREEN];
    rgb.b = (float)pixel[BLUE];
    return rgb;
  }
};

// --- tensor element types --------------------------------------------------------------------------

struct F32 {
  enum { PAIRS = 0 };
  static __device__ __forceinline__ void put(void *out, unsigned long long at, float value) {
    ((float *)out)[at] = value;
  }
};

struct F16 {
  enum { PAIRS = 1 };
  // Two neighbours; `at` is even.
  static __device__ __forceinline__ void put2(void *out, unsigned long long at, float a, float b) {
#ifdef HOST_HALF
    put(out, at, a);
    put(out, at + 1, b);
#else
    unsigned both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(b), "f"(a));
    *(unsigned *)((unsigned short *)out + at) = both;
#endif
  }
  static __device__ __forceinline__ void put(void *out, unsigned long long at, float value) {
    unsigned short half;
#ifdef HOST_HALF
    half = HOST_HALF(value);
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
#endif
    ((unsigned short *)out)[at] = half;
  }
};

struct I8 {
  enum { PAIRS = 0 };
  static __device__ __forceinline__ void put(void *out, unsigned long long at, float value) {
    ((signed char *)out)[at] = (signed char)rintf(fminf(fmaxf(value, -128.0f), 127.0f));
  }
};

struct U8 {
  enum { PAIRS = 0 };
  static __device__ __forceinline__ void put(void *out, unsigned long long at, float value) {
    ((unsigned char *)out)[at] = (unsigned char)rintf(fminf(fmaxf(value, 0.0f), 255.0f));
  }
};

// --- the pass --------------------------------------------------------------------------------------

// Where a tensor column (or row) samples the frame: two neighbours and the second one's weight. Outside of
// the picture these are its nearest pixels, so that reading them does no harm.
struct Sample {
  bool inside;
  int low, high;
  float weight;
};

__device__ __forceinline__ Sample sample(int at, int put, float step, int take) {
  const float where = fminf(fmaxf(((float)at + 0.5f) * step - 0.5f, 0.0f), (float)(take - 1));
  Sample s;
  s.inside = at >= 0 && at < put;
  s.low = (int)where;
  s.high = s.low + 1 < take ? s.low + 1 : s.low;
  s.weight = where - (float)s.low;
  return s;
}

// An odd whole number of frame pixels per tensor pixel: every sample falls on a pixel's centre.
__device__ __forceinline__ bool centred(float step) {
  return step == floorf(step) && ((int)step & 1);
}

template <class Format, bool ONE_TAP>
__device__ __forceinline__ Rgb pixel(const Params &p, unsigned long long frame, const Sample &x, const Sample &y) {
  if (ONE_TAP) return Format::tap(p, frame, x.low, y.low);
  const Rgb upper = blend(Format::tap(p, frame, x.low, y.low), Format::tap(p, frame, x.high, y.low), x.weight);
  const Rgb lower = blend(Format::tap(p, frame, x.low, y.high), Format::tap(p, frame, x.high, y.high), x.weight);
  return blend(upper, lower, y.weight);
}

// All of a thread's pixels, without a branch or a write between them, so that they are under way together.
template <class Format, bool ONE_TAP>
__device__ __forceinline__ void read(const Params &p, unsigned long long frame, const Sample *xs, const Sample *ys,
                                     Rgb (*pixels)[2]) {
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const Rgb got = pixel<Format, ONE_TAP>(p, frame, xs[column], ys[row]);
      if (xs[column].inside && ys[row].inside) pixels[row][column] = got;
    }
  }
}

template <class Element, bool PAIRS>
struct Store {
  static __device__ __forceinline__ void put(const Params &p, unsigned long long at, float a, float b, bool both) {
    Element::put(p.out, at, a);
    if (both) Element::put(p.out, at + p.pixel_stride, b);
  }
};

template <class Element>
struct Store<Element, true> {
  static __device__ __forceinline__ void put(const Params &p, unsigned long long at, float a, float b, bool both) {
    if (both && p.pixel_stride == 1 && !(at & 1)) {
      Element::put2(p.out, at, a, b);
    } else {
      Store<Element, false>::put(p, at, a, b, both);
    }
  }
};

// The tensor row that a thread's row is.
__device__ __forceinline__ int row_of(int row) {
  return (blockIdx.y * ROWS + row) * blockDim.y + threadIdx.y;
}

template <class Format, class Element>
__device__ __forceinline__ void preprocess(const Params &p) {
  const int x = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (x >= p.width) return;
  const bool both = x + 1 < p.width;
  const unsigned long long frame = blockIdx.z * p.frame_bytes;
  const unsigned long long tensor = blockIdx.z * p.tensor_elements;
  const Sample xs[2] = {sample(x - p.put_left, p.put_width, p.step_x, p.take_width),
                        sample(x + 1 - p.put_left, p.put_width, p.step_x, p.take_width)};
  Sample ys[ROWS];
  Rgb pixels[ROWS][2];
  bool some = false;
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    ys[row] = sample(row_of(row) - p.put_top, p.put_height, p.step_y, p.take_height);
    some = some || ys[row].inside;
    for (int column = 0; column < 2; ++column)
      pixels[row][column].r = pixels[row][column].g = pixels[row][column].b = p.pad;
  }
  if (some) {
    if (centred(p.step_x) && centred(p.step_y)) {
      read<Format, true>(p, frame, xs, ys, pixels);
    } else {
      read<Format, false>(p, frame, xs, ys, pixels);
    }
  }
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    const int y = row_of(row);
    if (y >= p.height) return;
    const Rgb a = pixels[row][0], b = pixels[row][1];
    const unsigned long long at =
        tensor + (unsigned)y * (unsigned)p.row_stride + (unsigned)x * (unsigned)p.pixel_stride;
    typedef Store<Element, Element::PAIRS> To;
    To::put(p, at + p.channel[0], a.r * p.gain[0] + p.bias[0], b.r * p.gain[0] + p.bias[0], both);
    To::put(p, at + p.channel[1], a.g * p.gain[1] + p.bias[1], b.g * p.gain[1] + p.bias[1], both);
    To::put(p, at + p.channel[2], a.b * p.gain[2] + p.bias[2], b.b * p.gain[2] + p.bias[2], both);
  }
}

typedef Packed<3, 0, 1, 2> PackedRgb;
typedef Packed<3, 2, 1, 0> PackedBgr;
typedef FourBytes<0, 2> PackedRgbx;
typedef FourBytes<2, 0> PackedBgrx;
typedef Packed<1, 0, 0, 0> PackedGray;

#define KERNEL(format, Format, element, Element)                                             \
  extern "C" __global__ void __launch_bounds__(256) format##_##element(const Params params) { \
    preprocess<Format, Element>(params);                                                     \
  }
#define ELEMENTS(format, Format)          \
  KERNEL(format, Format, float32, F32)    \
  KERNEL(format, Format, float16, F16)    \
  KERNEL(format, Format, int8, I8)        \
  KERNEL(format, Format, uint8, U8)

ELEMENTS(nv12, Nv12)
ELEMENTS(yuyv, Yuyv)
ELEMENTS(rgb, PackedRgb)
ELEMENTS(bgr, PackedBgr)
ELEMENTS(rgbx, PackedRgbx)
ELEMENTS(bgrx, PackedBgrx)
ELEMENTS(gray, PackedGray)
