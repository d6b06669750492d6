// Score filter and compaction of a detection head [batch, 4 + classes, candidates]: only candidates whose
// best class reaches the limit leave the device. One thread per candidate, so that neighbours read
// neighbouring scores; a candidate's place in the list is drawn from a counter, so the host sorts by index.
// The thread that comes last tells how many passed, and leaves the counters at zero for the next frame.
//
// No includes: the same text goes through NVRTC, nvcc, and a host compiler in the tests.

struct Params {
  const void *head;
  int *counters;       // per image two: candidates that passed, and threads that are done; zero before the first
  void *found;         // per image: `capacity` of struct Found
  int *passed;         // per image: candidates that passed, also those beyond `capacity`
  int classes, candidates, capacity;
  float limit;
};

struct Found {
  float box[4];  // as the head gives them: centre x, centre y, width, height
  float score;
  int label;
  int index;     // of the candidate
  int spare;     // keeps a row at 32 bytes, one memory sector
};

struct F32 {
  static __device__ __forceinline__ float get(const void *head, unsigned long long at) {
    return ((const float *)head)[at];
  }
};

struct F16 {
  static __device__ __forceinline__ float get(const void *head, unsigned long long at) {
    const unsigned short half = ((const unsigned short *)head)[at];
#ifdef HOST_FLOAT
    return HOST_FLOAT(half);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#endif
  }
};

template <class Element>
__device__ __forceinline__ void examine(const Params &p, int image, int index) {
  const unsigned long long stride = p.candidates;
  const unsigned long long first = (unsigned long long)image * (4 + p.classes) * stride + index;
  float best = Element::get(p.head, first + 4 * stride);
  float poison = best - best;  // 0, or NaN when the score is NaN or infinite
  int label = 0;
#pragma unroll 8
  for (int i = 1; i < p.classes; ++i) {
    const float score = Element::get(p.head, first + (4 + i) * stride);
    poison += score - score;
    if (score > best) {
      best = score;
      label = i;
    }
  }
  // What is not finite passes, so that the host sees a broken network instead of an empty picture.
  if (best < p.limit && poison == 0.0f) return;
  const int place = atomicAdd(p.counters + 2 * image, 1);
  if (place >= p.capacity) return;
  Found *row = (Found *)p.found + (unsigned long long)image * p.capacity + place;
  for (int i = 0; i < 4; ++i) row->box[i] = Element::get(p.head, first + i * stride);
  row->score = best + poison;
  row->label = label;
  row->index = index;
  row->spare = 0;
}

template <class Element>
__device__ __forceinline__ void filter(const Params &p) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= p.candidates) return;
  const int image = blockIdx.y;
  examine<Element>(p, image, index);
  __threadfence();
  int *counters = p.counters + 2 * image;
  if (atomicAdd(counters + 1, 1) == p.candidates - 1) {
    p.passed[image] = atomicAdd(counters, 0);
    counters[0] = counters[1] = 0;
  }
}

extern "C" __global__ void __launch_bounds__(64) filter_float32(const Params params) {
  filter<F32>(params);
}

extern "C" __global__ void __launch_bounds__(64) filter_float16(const Params params) {
  filter<F16>(params);
}
