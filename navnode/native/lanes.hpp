// A vector of float lanes, as wide as the instruction set this file is compiled for. Arithmetic is the
// compiler's vector extension; only what it has no operator for is written out.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace navnode::NAVNODE_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float F __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t I __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t U __attribute__((vector_size(4 * kLanes)));

inline F splat(float x) { return F{} + x; }
inline F to_float(I i) { return __builtin_convertvector(i, F); }
inline I truncate(F x) { return __builtin_convertvector(x, I); }
inline F min(F a, F b) { return a < b ? a : b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F abs(F a) { return a < 0 ? -a : a; }

inline F load(const float* p) {
  F x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
// Every `step` floats.
inline void store(float* p, std::int64_t step, F x, int lanes) {
  if (step == 1) std::memcpy(p, &x, sizeof(float) * lanes);
  else
    for (int l = 0; l < lanes; ++l) p[l * step] = x[l];
}

inline F sqrt(F x) {
#if defined(__AVX512F__)
  return (F)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (F)_mm256_sqrt_ps((__m256)x);
#else
  for (int l = 0; l < kLanes; ++l) x[l] = std::sqrt(x[l]);
  return x;
#endif
}

inline float lowest(F x) {
  float m = x[0];
  for (int l = 1; l < kLanes; ++l) m = x[l] < m ? x[l] : m;
  return m;
}
inline float highest(F x) { return -lowest(-x); }

// 32 bits from base + step * i[lane] bytes.
template <int step>
inline I gather32(const void* base, I i) {
#if defined(__AVX512F__)
  return (I)_mm512_i32gather_epi32((__m512i)i, base, step);
#elif defined(__AVX2__)
  return (I)_mm256_i32gather_epi32((const int*)base, (__m256i)i, step);
#else
  I x;
  for (int l = 0; l < kLanes; ++l) {
    std::int32_t word;
    std::memcpy(&word, (const char*)base + (std::int64_t)step * i[l], sizeof word);
    x[l] = word;
  }
  return x;
#endif
}

}  // namespace navnode::NAVNODE_ISA
