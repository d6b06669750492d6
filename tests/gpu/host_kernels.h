// Lets a host compiler build the device kernels, one simulated thread after the other.
#include <math.h>
#include <string.h>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct Dim {
  unsigned x, y, z;
};
static Dim blockIdx, blockDim, threadIdx;

static inline void __threadfence() {}

static inline int atomicAdd(int *target, int more) {
  const int before = *target;
  *target += more;
  return before;
}

static inline unsigned short to_half(float value) {
  _Float16 half = (_Float16)value;
  unsigned short bits;
  memcpy(&bits, &half, 2);
  return bits;
}

static inline float from_half(unsigned short bits) {
  _Float16 half;
  memcpy(&half, &bits, 2);
  return (float)half;
}
#define HOST_HALF to_half
#define HOST_FLOAT from_half

template <class Kernel, class Params>
static void run(Kernel kernel, const void *arguments, const int *grid, const int *block) {
  const Params &params = *(const Params *)arguments;
  blockDim.x = block[0], blockDim.y = block[1], blockDim.z = block[2];
  for (blockIdx.z = 0; blockIdx.z < (unsigned)grid[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < (unsigned)grid[1]; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < (unsigned)grid[0]; ++blockIdx.x)
        for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
          for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(params);
}
