// Winograd's minimal filtering, F(m x m, 3x3): Y = A' [(G g G') . (B' d B)] A  (Lavin & Gray 2015, arXiv:1509.09308,
// equation 8). A tile of (m + 2) x (m + 2) inputs d gives m x m outputs Y; between the transforms the channels of one
// frequency mix by a matrix product, (m + 2)^2 products of 1 / m^2 as many rows in place of 9 of all: 4 times fewer
// multiplications for m = 4, 2.25 for m = 2.
//
// One-dimensional transforms, B' d, A' p (both strided) and G g, as in sections 4.1 and 4.3; those in two dimensions
// are one along each axis.
#pragma once
#include "lanes.h"

namespace {

struct Two {
  static constexpr int OUT = 2, SIZE = 4;

  template <class V>
  INLINE void enter(const V* d, int s, V* o) {
    V d0 = d[0 * s], d1 = d[1 * s], d2 = d[2 * s], d3 = d[3 * s];
    o[0 * s] = d0 - d2;
    o[1 * s] = d1 + d2;
    o[2 * s] = d2 - d1;
    o[3 * s] = d1 - d3;
  }

  template <class V>
  INLINE void leave(const V* p, int s, V* o) {
    V p0 = p[0 * s], p1 = p[1 * s], p2 = p[2 * s], p3 = p[3 * s];
    o[0 * s] = p0 + p1 + p2;
    o[1 * s] = p1 - p2 - p3;
  }

  template <class V>
  INLINE void weigh(const V* g, int s, V* o, int t) {
    V ends = (g[0 * s] + g[2 * s]) * 0.5, middle = g[1 * s] * 0.5;
    o[0 * t] = g[0 * s];
    o[1 * t] = ends + middle;
    o[2 * t] = ends - middle;
    o[3 * t] = g[2 * s];
  }
};

struct Four {
  static constexpr int OUT = 4, SIZE = 6;

  template <class V>
  INLINE void enter(const V* d, int s, V* o) {
    V d0 = d[0 * s], d1 = d[1 * s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s], d5 = d[5 * s];
    V even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, wide = d4 - d2, twice = 2.0f * (d3 - d1);
    o[0 * s] = 4.0f * d0 - 5.0f * d2 + d4;
    o[1 * s] = even + odd;
    o[2 * s] = even - odd;
    o[3 * s] = wide + twice;
    o[4 * s] = wide - twice;
    o[5 * s] = 4.0f * d1 - 5.0f * d3 + d5;
  }

  template <class V>
  INLINE void leave(const V* p, int s, V* o) {
    V p0 = p[0 * s], p5 = p[5 * s];
    V near = p[1 * s] + p[2 * s], lean = p[1 * s] - p[2 * s], far = p[3 * s] + p[4 * s], tilt = p[3 * s] - p[4 * s];
    o[0 * s] = p0 + near + far;
    o[1 * s] = lean + 2.0f * tilt;
    o[2 * s] = near + 4.0f * far;
    o[3 * s] = lean + 8.0f * tilt + p5;
  }

  template <class V>
  INLINE void weigh(const V* g, int s, V* o, int t) {
    V ends = (g[0 * s] + g[2 * s]) * (-1.0 / 6), middle = g[1 * s] * (-1.0 / 6);
    V wide = g[0 * s] * (1.0 / 24) + g[2 * s] * (1.0 / 6), half = g[1 * s] * (1.0 / 12);
    o[0 * t] = g[0 * s] * 0.25;
    o[1 * t] = ends + middle;
    o[2 * t] = ends - middle;
    o[3 * t] = wide + half;
    o[4 * t] = wide - half;
    o[5 * t] = g[2 * s];
  }
};

// B' d B of a tile d, in place; d is [SIZE][SIZE].
template <class F>
INLINE void enter_tile(Lanes* d) {
  for (int j = 0; j < F::SIZE; j++) F::enter(d + j, F::SIZE, d + j);
  for (int i = 0; i < F::SIZE; i++) F::enter(d + i * F::SIZE, 1, d + i * F::SIZE);
}

// A' p A, in place: the outputs are the upper left [OUT][OUT] of p, [SIZE][SIZE].
template <class F>
INLINE void leave_tile(Lanes* p) {
  for (int j = 0; j < F::SIZE; j++) F::leave(p + j, F::SIZE, p + j);
  for (int i = 0; i < F::OUT; i++) F::leave(p + i * F::SIZE, 1, p + i * F::SIZE);
}

}  // namespace
