// The matrix product: strips of up to ROWS tiles against panels of PANEL channels, all sums in registers while the
// channels inside are walked through in order. Which tiles share a strip changes no sum, and so no bit.
#pragma once
#include "lanes.h"

namespace {

// m[r][0 .. PANEL) = sum over k < inside of v[r][k] u[k][0 .. PANEL), added to what is there if there is `more` of it,
// for r < R. `ahead` is what will be read next: `lines` cache lines of it are called for with every four k.
template <int R>
void strip(const float* v, long row, const float* u, long inside, float* m, long stride, bool more, const float* ahead,
           int lines) {
  constexpr int VECTORS = PANEL / WIDTH;
  Lanes sum[R][VECTORS] = {};
  long k = 0;
  auto step = [&](long i) __attribute__((always_inline)) {
    Lanes w[VECTORS];
    for (int j = 0; j < VECTORS; j++) w[j] = load(u + j * WIDTH);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      Lanes x = every(v[r * row + k + i]);
      for (int j = 0; j < VECTORS; j++) sum[r][j] += x * w[j];
    }
    u += PANEL;
  };
  for (; k + 4 <= inside; k += 4) {
    for (int i = 0; i < lines; i++, ahead += LINE) __builtin_prefetch(ahead, 0, 2);
    step(0), step(1), step(2), step(3);
  }
  for (; k < inside; k++) step(0);
  for (int r = 0; r < R; r++)
    for (int j = 0; j < VECTORS; j++) {
      float* to = m + r * stride + j * WIDTH;
      store(to, more ? load(to) + sum[r][j] : sum[r][j]);
    }
}

typedef void (*Strip)(const float*, long, const float*, long, float*, long, bool, const float*, int);

constexpr Strip STRIPS[ROWS] = {
    strip<1>, strip<2>, strip<3>, strip<4>, strip<5>, strip<6>,
#if ROWS > 6
    strip<7>, strip<8>,
#endif
#if ROWS > 8
    strip<9>, strip<10>, strip<11>, strip<12>, strip<13>, strip<14>,
#endif
};

}  // namespace
