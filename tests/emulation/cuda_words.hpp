// The words of CUDA C++ that blake3.cu uses, for a C++ compiler: what they mean to one lane of a block.
#pragma once

#include <cstdint>

#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads)
// A block runs on one thread from its first lane to its last.
#define __shared__ static thread_local

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct Place {
  unsigned x, y, z;
};

static thread_local Place threadIdx, blockIdx, blockDim, gridDim;

// The low word of (high:low) moved `shift` bits to the right; only the shift's lowest five bits count.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}

// Four of the eight bytes of (high:low); a hexadecimal digit of `selector` names each one by its lowest three bits.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t both = (uint64_t)high << 32 | low;
  const auto byte = [=](int i) { return (unsigned)(both >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i; };
  return byte(0) | byte(1) | byte(2) | byte(3);
}

// A lane stops here until all lanes of its block have come here.
void __syncthreads();
