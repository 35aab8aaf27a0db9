// BLAKE3 (https://github.com/BLAKE3-team/BLAKE3-specs, section 2) of many pieces in one launch.
//
// A thread digests a chunk of 1024 bytes; the TILE threads of a block then join their chunks' chaining values
// into trees in shared memory. A piece of up to TILE chunks ends there, with its digest. Of a longer one every
// tile gives one chaining value, and `parents` joins those in the same way, TILE to one, launch after launch.
//
// The host lays the pieces out on the lanes (see plan.py): a piece of up to TILE chunks begins at a multiple of
// the power of two that holds it, a longer one at a multiple of TILE. So the nodes of a tree's level lie side by
// side, those of neighbouring pieces too, and every level keeps as few warps busy as it can.
//
// The same text compiles with NVRTC and as C++ for a machine without a GPU. It needs nothing of a GPU later
// than Pascal; a Hopper's cache is only told what to fetch ahead.

#ifndef TILE
#define TILE 128
#endif
// Bytes that an L2 miss fetches, on GPUs that can be told: 0 (their own choice), 64, 128 or 256.
#ifndef FETCH
#define FETCH 128
#endif

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct Item {
  u64 offset;   // where its bytes begin in the data; for `parents`, its first chaining value
  u64 length;   // in bytes; for `parents`, in chaining values
  u64 counter;  // number of its first chunk in the whole piece
  u32 start;    // its first lane
  u32 output;   // where its first tile's result goes
  u32 root;     // whether its tree ends here, with a digest
  u32 unused;
};

enum Flags : u32 { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8 };

#define IV0 0x6A09E667u
#define IV1 0xBB67AE85u
#define IV2 0x3C6EF372u
#define IV3 0xA54FF53Au

__device__ __forceinline__ u32 rotate(u32 x, int count) { return __funnelshift_r(x, x, count); }

__device__ __forceinline__ void mix(u32 &a, u32 &b, u32 &c, u32 &d, u32 one, u32 two) {
  a = a + b + one;
  d = __byte_perm(d ^ a, 0, 0x1032);  // 16 to the right
  c = c + d;
  b = rotate(b ^ c, 12);
  a = a + b + two;
  d = __byte_perm(d ^ a, 0, 0x0321);  // 8 to the right
  c = c + d;
  b = rotate(b ^ c, 7);
}

// Replaces the chaining value `cv` by that of the block `m`, of `length` bytes.
__device__ __forceinline__ void compress(u32 cv[8], const u32 m[16], u64 counter, u32 length, u32 flags) {
  // The message's words in the order of each round: the permutation applied again and again.
  constexpr u8 order[7][16] = {
      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
      {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1}, {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
      {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4}, {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
      {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13},
  };
  u32 v[16] = {cv[0], cv[1], cv[2], cv[3], cv[4],        cv[5],               cv[6],  cv[7],
               IV0,   IV1,   IV2,   IV3,   (u32)counter, (u32)(counter >> 32), length, flags};
#pragma unroll
  for (int round = 0; round < 7; ++round) {
    const u8 *const o = order[round];
    mix(v[0], v[4], v[8], v[12], m[o[0]], m[o[1]]);
    mix(v[1], v[5], v[9], v[13], m[o[2]], m[o[3]]);
    mix(v[2], v[6], v[10], v[14], m[o[4]], m[o[5]]);
    mix(v[3], v[7], v[11], v[15], m[o[6]], m[o[7]]);
    mix(v[0], v[5], v[10], v[15], m[o[8]], m[o[9]]);
    mix(v[1], v[6], v[11], v[12], m[o[10]], m[o[11]]);
    mix(v[2], v[7], v[8], v[13], m[o[12]], m[o[13]]);
    mix(v[3], v[4], v[9], v[14], m[o[14]], m[o[15]]);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) cv[i] = v[i] ^ v[i + 8];
}

__device__ __forceinline__ void begin(u32 cv[8]) {
  const u32 iv[8] = {IV0, IV1, IV2, IV3, 0x510E527Fu, 0x9B05688Cu, 0x1F83D9ABu, 0x5BE0CD19u};
#pragma unroll
  for (int i = 0; i < 8; ++i) cv[i] = iv[i];
}

__device__ __forceinline__ uint4 load(const uint4 *from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && FETCH
  uint4 v;
#if FETCH == 64
  asm("ld.global.nc.L2::64B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
#elif FETCH == 128
  asm("ld.global.nc.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
#else
  asm("ld.global.nc.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
#endif
  return v;
#else
  return *from;
#endif
}

// The 16 words that begin `shift` bytes (below 16) into five vectors.
__device__ __forceinline__ void align(u32 m[16], const uint4 v[5], u32 shift) {
  u32 w[20];
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    w[4 * i] = v[i].x;
    w[4 * i + 1] = v[i].y;
    w[4 * i + 2] = v[i].z;
    w[4 * i + 3] = v[i].w;
  }
  if (shift) {
    const bool two = shift & 8, one = shift & 4;
#pragma unroll
    for (int i = 0; i < 18; ++i) w[i] = two ? w[i + 2] : w[i];
#pragma unroll
    for (int i = 0; i < 17; ++i) w[i] = one ? w[i + 1] : w[i];
#pragma unroll
    for (int i = 0; i < 16; ++i) w[i] = __funnelshift_r(w[i], w[i + 1], (shift & 3) * 8);
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) m[i] = w[i];
}

// The chaining value of the chunk of `length` bytes (0 to 1024) at data + offset; `last` joins its last block's
// flags. Reads whole vectors of 16 bytes: up to 15 bytes before the chunk and 79 after its last full block.
__device__ __forceinline__ void digest_chunk(u32 cv[8], const u8 *data, u64 offset, u32 length, u64 counter, u32 last) {
  const uint4 *from = (const uint4 *)(data + (offset & ~(u64)15));
  const u32 shift = (u32)offset & 15;
  const u32 blocks = length ? (length + 63) / 64 : 1;
  begin(cv);
  uint4 v[5];
#pragma unroll
  for (int i = 0; i < 5; ++i) v[i] = load(from + i);
#pragma unroll 1
  for (u32 block = 0; block < blocks; ++block) {
    u32 m[16];
    align(m, v, shift);
    u32 flags = block ? 0 : CHUNK_START, size = 64;
    if (block + 1 < blocks) {
      // The next block is on its way while this one is compressed.
      from += 4;
      v[0] = v[4];
#pragma unroll
      for (int i = 1; i < 5; ++i) v[i] = load(from + i);
    } else {
      flags |= CHUNK_END | last;
      size = length - 64 * block;
      if (size < 64) {
#pragma unroll
        for (u32 i = 0; i < 16; ++i) {
          const u32 bytes = size > 4 * i ? size - 4 * i : 0;
          m[i] = bytes >= 4 ? m[i] : m[i] & ((1u << (8 * bytes)) - 1);
        }
      }
    }
    compress(cv, m, counter, size, flags);
  }
}

// The item on whose lanes `lane` is: the last that starts at or before it.
__device__ __forceinline__ u32 find(const Item *items, u32 count, u32 lane) {
  u32 low = 0, high = count;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (items[middle].start <= lane) low = middle;
    else high = middle;
  }
  return low;
}

__device__ __forceinline__ u64 leaves_of(const Item &item, bool chunks) {
  if (!chunks) return item.length;
  return item.length ? (item.length + 1023) / 1024 : 1;
}

__device__ __forceinline__ void store(uint4 *outputs, u64 place, const u32 cv[8]) {
  outputs[2 * place] = make_uint4(cv[0], cv[1], cv[2], cv[3]);
  outputs[2 * place + 1] = make_uint4(cv[4], cv[5], cv[6], cv[7]);
}

// A block's share: `chunks` tells what the leaves are, bytes to digest or chaining values that are there.
template <bool chunks>
__device__ __forceinline__ void digest_tile(const u8 *data, const Item *items, u32 count, uint4 *outputs) {
  __shared__ u32 values[8][TILE];  // nodes of the present level, side by side
  __shared__ u32 owners[TILE];     // which item a lane serves
  const u32 t = threadIdx.x;
  const u64 lane = (u64)blockIdx.x * TILE + t;
  u32 cv[8];
  {
    const u32 owner = find(items, count, (u32)lane);
    const Item item = items[owner];
    const u64 leaves = leaves_of(item, chunks), leaf = lane - item.start;
    owners[t] = owner;
    if (leaf < leaves) {
      const bool alone = leaves == 1;
      if (chunks) {
        const u64 left = item.length - 1024 * leaf;
        digest_chunk(cv, data, item.offset + 1024 * leaf, left < 1024 ? (u32)left : 1024, item.counter + leaf,
                     alone && item.root ? ROOT : 0);
      } else {
        const uint4 *from = (const uint4 *)data + 2 * (item.offset + leaf);
        const uint4 low = from[0], high = from[1];
        cv[0] = low.x, cv[1] = low.y, cv[2] = low.z, cv[3] = low.w;
        cv[4] = high.x, cv[5] = high.y, cv[6] = high.z, cv[7] = high.w;
      }
      // A tree, or a tile's part of it, that is one leaf is complete.
      if (leaf + 1 == leaves && leaf % TILE == 0) store(outputs, item.output + leaf / TILE, cv);
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i][t] = cv[i];
    }
  }
  // Thread t joins the nodes 2t and 2t + 1, which span lanes from `first` on; one without a right neighbour in
  // its tree goes up as it is.
#pragma unroll 1
  for (u32 width = 1; width < TILE; width *= 2) {
    __syncthreads();
    const u32 first = t * 2 * width;
    u32 left = 0;  // leaves of its tree, in this tile, from the first one on
    u32 m[16];
    Item item = {};
    u64 leaf = 0, leaves = 0;
    if (first < TILE) {
      item = items[owners[first]];
      leaf = (u64)blockIdx.x * TILE + first - item.start;
      leaves = leaves_of(item, chunks);
      const u64 rest = leaf < leaves ? leaves - leaf : 0;
      left = rest < TILE ? (u32)rest : TILE;
#pragma unroll
      for (int i = 0; i < 8; ++i) m[i] = values[i][2 * t], m[i + 8] = values[i][2 * t + 1];
    }
    __syncthreads();
    if (left > width) {
      const bool complete = leaf % TILE == 0 && left <= 2 * width;
      begin(cv);
      compress(cv, m, 0, 64, PARENT | (complete && leaves <= TILE && item.root ? ROOT : 0));
      if (complete) store(outputs, item.output + leaf / TILE, cv);
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i][t] = cv[i];
    } else if (left) {
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i][t] = m[i];
    }
  }
}

// Digests the bytes of items: a result of 32 bytes for each TILE chunks of an item.
extern "C" __global__ void __launch_bounds__(TILE) chunks(const u8 *data, const Item *items, u32 count, uint4 *outputs) {
  digest_tile<true>(data, items, count, outputs);
}

// Joins chaining values, as `chunks` and `parents` give them: a result for each TILE of an item.
extern "C" __global__ void __launch_bounds__(TILE) parents(const u8 *values, const Item *items, u32 count, uint4 *outputs) {
  digest_tile<false>(values, items, count, outputs);
}
