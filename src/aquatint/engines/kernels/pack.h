// The transform of the weights, U = G g G', computed in float64 and rounded once, in the order in which it is read:
// [SIZE^2][panels][inside][PANEL], with zeros for the channels that the last panel has too many.
#pragma once
#include "lanes.h"
#include "table.h"
#include "winograd.h"

namespace {

template <class F>
struct Pack {
  static constexpr int SIZE = F::SIZE, AREA = SIZE * SIZE;
  const Shape& s;
  const float* weight;
  const long* strides;  // of [outside, inside, 3, 3], in floats
  float* packed;

  static long size(const Shape& s) { return AREA * parts(s.outside, PANEL) * PANEL * s.inside; }

  // WIDTH channels outside, from o on, and channel k inside.
  void some(long o, long k, float* to, long step) const {
    Doubles g[9] = {}, h[3 * SIZE], u[AREA];
    for (int lane = 0; lane < least(WIDTH, s.outside - o); lane++)
      for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
          g[i * 3 + j][lane] = weight[(o + lane) * strides[0] + k * strides[1] + i * strides[2] + j * strides[3]];
    for (int j = 0; j < 3; j++) F::weigh(g + j, 3, h + j, 3);
    for (int i = 0; i < SIZE; i++) F::weigh(h + 3 * i, 1, u + SIZE * i, 1);
    for (int f = 0; f < AREA; f++) store(to + f * step, __builtin_convertvector(u[f], Lanes));
  }

  static void work(void* job, int member, int team) {
    const Pack& p = *(const Pack*)job;
    long panels = parts(p.s.outside, PANEL), size = p.s.inside * PANEL;
    for (long panel = member; panel < panels; panel += team)
      for (long k = 0; k < p.s.inside; k++)
        for (long lane = 0; lane < PANEL; lane += WIDTH)
          p.some(panel * PANEL + lane, k, p.packed + panel * size + k * PANEL + lane, panels * size);
  }
};

}  // namespace
