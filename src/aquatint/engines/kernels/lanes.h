// Vectors of WIDTH floats. What computes includes this, and is compiled once for each instruction set, under its name
// ISA. ROWS x PANEL is the block of sums that the product holds in registers, with room for its operands: 12 vectors of
// 16 registers, 28 of 32; on ARM, where nothing was measured, 16 of 32 (of 24 clang spills some).
//
// Where ISA is set no header of the standard library may be included: an inline function of theirs, compiled here for
// AVX-512, could be the one copy that the linker keeps for everybody.
#pragma once

#ifndef ISA
#error "compile with -DISA=portable, avx2 or avx512"
#endif

#if defined(__AVX512F__)
#define WIDTH 16
#define ROWS 14
#define PANEL 32
#elif defined(__AVX2__)
#define WIDTH 8
#define ROWS 6
#define PANEL 16
#elif defined(__aarch64__)
#define WIDTH 4
#define ROWS 8
#define PANEL 8
#else
#define WIDTH 4
#define ROWS 6
#define PANEL 8
#endif

#define INLINE static inline __attribute__((always_inline))

namespace {

typedef float Lanes __attribute__((vector_size(4 * WIDTH)));
typedef int Whole __attribute__((vector_size(4 * WIDTH)));
typedef double Doubles __attribute__((vector_size(8 * WIDTH)));
typedef float LooseLanes __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));  // anywhere in memory
typedef double LooseDoubles __attribute__((vector_size(8 * WIDTH), aligned(8), may_alias));

INLINE Lanes load(const float* p) { return *(const LooseLanes*)p; }
INLINE Doubles load(const double* p) { return *(const LooseDoubles*)p; }
INLINE void store(float* p, Lanes v) { *(LooseLanes*)p = v; }
INLINE void store(double* p, Doubles v) { *(LooseDoubles*)p = v; }
INLINE Lanes every(float x) { return x - Lanes{}; }  // nothing is computed: x - 0 is x, where -0 + 0 would be 0

// As many as there are: the first `count` lanes, if fewer than all; zeros behind them.
INLINE Lanes load(const float* p, long count) {
  if (count >= WIDTH) return load(p);
  Lanes v = {};
  for (int i = 0; i < count; i++) v[i] = p[i];
  return v;
}

INLINE void store(float* p, Lanes v, long count) {
  if (count >= WIDTH) return store(p, v);
  for (int i = 0; i < count; i++) p[i] = v[i];
}

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }
INLINE long parts(long whole, long part) { return (whole + part - 1) / part; }

constexpr long LINE = 16;  // floats of a cache line

}  // namespace
