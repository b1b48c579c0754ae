// The transform of the weights, U = G g G', computed in float64 and rounded once, in the order in which it is read:
// [SIZE^2][panels][inside][PANEL], with zeros for the channels that the last panel has too many.
#pragma once
#include "lanes.h"
#include "table.h"
#include "winograd.h"

namespace {

constexpr long SOME = 16;  // channels inside that are gathered at once: 18 kB, in the first cache

template <class F>
struct Pack {
  static constexpr int SIZE = F::SIZE, AREA = SIZE * SIZE;
  const Shape& s;
  const float* weight;
  const long* strides;  // of [outside, inside, 3, 3], in floats
  float* packed;

  static long size(const Shape& s) { return AREA * parts(s.outside, PANEL) * PANEL * s.inside; }

  // The weights of PANEL channels outside, from o on, and `count` inside, from k on: [count][9][PANEL].
  void gather(long o, long k, long count, float* to) const {
    long at[9];
    for (int j = 0; j < 9; j++) at[j] = j / 3 * strides[2] + j % 3 * strides[3];
    for (long lane = 0; lane < PANEL; lane++) {
      const float* from = weight + (o + lane) * strides[0] + k * strides[1];
      for (long i = 0; i < count; i++)
        for (int j = 0; j < 9; j++)
          to[(i * 9 + j) * PANEL + lane] = o + lane < s.outside ? from[i * strides[1] + at[j]] : 0;
    }
  }

  // G g G' of WIDTH channels outside.
  static void weigh(const float* from, float* to, long step) {
    Doubles g[9], h[3 * SIZE], u[AREA];
    for (int j = 0; j < 9; j++) g[j] = __builtin_convertvector(load(from + j * PANEL), Doubles);
    for (int j = 0; j < 3; j++) F::weigh(g + j, 3, h + j, 3);
    for (int i = 0; i < SIZE; i++) F::weigh(h + 3 * i, 1, u + SIZE * i, 1);
    for (int f = 0; f < AREA; f++) store(to + f * step, __builtin_convertvector(u[f], Lanes));
  }

  static void work(void* job, int member, int team) {
    const Pack& p = *(const Pack*)job;
    long panels = parts(p.s.outside, PANEL), size = p.s.inside * PANEL;
    float gathered[SOME * 9 * PANEL];
    for (long panel = member; panel < panels; panel += team)
      for (long first = 0; first < p.s.inside; first += SOME) {
        long count = least(SOME, p.s.inside - first);
        p.gather(panel * PANEL, first, count, gathered);
        for (long i = 0; i < count; i++)
          for (long lane = 0; lane < PANEL; lane += WIDTH)
            weigh(gathered + i * 9 * PANEL + lane, p.packed + panel * size + (first + i) * PANEL + lane, panels * size);
      }
  }
};

}  // namespace
