// GroupNorm, and SiLU after it, of [count, pixels, channels]: y = (x - mean) / sqrt(var + eps) w + b over groups of
// channels (Wu & He 2018, equations 1, 2 and 6; var is that of the population); silu(y) = y / (1 + exp(-y)).
//
// Sums and sums of squares are float64, in which the square of a float32 is exact: first of each piece of a picture,
// then of the pieces, in order. Who took which piece changes no bit.
#pragma once
#include "lanes.h"
#include "table.h"

namespace {

extern "C" double sqrt(double) noexcept;

// exp(x): x = n ln 2 + r, |r| <= ln 2 / 2, and exp(r) by its series, whose eighth power is left out: 6e-9.
INLINE Lanes exponential(Lanes x) {
  x = x > 88.0f ? every(88.0f) : x;
  x = x < -87.0f ? every(-87.0f) : x;
  constexpr float HALVES = 12582912.0f;  // 1.5 x 2^23: a float32 next to it has no fraction
  Lanes n = (x * 1.44269504f + HALVES) - HALVES;
  Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, n times the first of which is exact
  Lanes sum = every(1.0f / 5040);
  constexpr float FACTORIALS[] = {720, 120, 24, 6, 2, 1, 1};
  for (float term : FACTORIALS) sum = sum * r + 1.0f / term;
  Whole power = (__builtin_convertvector(n, Whole) + 127) << 23;
  return sum * (Lanes)power;
}

struct GroupNorm {
  const Norm& n;
  long piece, pieces, lanes;  // pixels a piece, pieces a picture, channels rounded up to whole vectors
  long* counters;             // where the team meets, and one for each of the three rounds
  double* sums;               // [count][pieces][2][lanes]
  float *mean, *scale, *shift;  // [count][lanes]

  explicit GroupNorm(const Norm& n) : n(n) {
    piece = most(16, parts(n.pixels, 64)), pieces = parts(n.pixels, piece);
    lanes = parts(n.channels, LINE) * LINE;
    counters = (long*)n.workspace;
    sums = (double*)(n.workspace + LINE);
    mean = (float*)(sums + n.count * pieces * 2 * lanes);
    scale = mean + n.count * lanes, shift = scale + n.count * lanes;
  }

  long workspace() const { return LINE + n.count * (pieces * 4 + 3) * lanes; }

  long begin(long i) const { return (i / pieces * n.pixels + i % pieces * piece) * n.channels; }
  long rows(long i) const { return least(piece, n.pixels - i % pieces * piece); }

  // The first `count` pixels, and of the channels from k on.
  void gather(const float* x, long count, long k, double* to) const {
    Doubles total = load(to + k), squares = load(to + lanes + k);
    for (long i = 0; i < count; i++) {
      Doubles d = __builtin_convertvector(load(x + i * n.channels + k, n.channels - k), Doubles);
      total += d, squares += d * d;
    }
    store(to + k, total), store(to + lanes + k, squares);
  }

  void sum(long i) const {
    const float* x = n.x + begin(i);
    double* to = sums + i * 2 * lanes;
    for (long k = 0; k < 2 * lanes; k++) to[k] = 0;
    for (long left = rows(i); left > 0; left -= 8, x += 8 * n.channels)
      for (long k = 0; k < n.channels; k += WIDTH) gather(x, least(8, left), k, to);
  }

  // y = (x - mean) scale + shift, by channel, for one picture: shift also has what is lost as the mean becomes float32.
  // The pieces' sums are added up in the first one's place.
  void settle(long picture) const {
    double* total = sums + picture * pieces * 2 * lanes;
    for (long i = 1; i < pieces; i++)
      for (long k = 0; k < 2 * lanes; k += WIDTH) store(total + k, load(total + k) + load(total + i * 2 * lanes + k));
    long width = n.channels / n.groups;
    double size = (double)width * n.pixels;
    for (long g = 0; g < n.groups; g++) {
      double first = 0, second = 0;
      for (long k = g * width; k < (g + 1) * width; k++) first += total[k], second += total[lanes + k];
      double middle = first / size, spread = second / size - middle * middle;
      double inverse = 1 / sqrt((spread < 0 ? 0 : spread) + n.eps);
      for (long k = g * width; k < (g + 1) * width; k++) {
        long at = picture * lanes + k;
        double factor = inverse * (n.weight ? n.weight[k] : 1);
        mean[at] = (float)middle, scale[at] = (float)factor;
        shift[at] = (float)((n.bias ? n.bias[k] : 0) - (middle - mean[at]) * factor);
      }
    }
  }

  void apply(long i) const {
    const float *x = n.x + begin(i), *means = mean + i / pieces * lanes;
    const float *scales = scale + i / pieces * lanes, *shifts = shift + i / pieces * lanes;
    float* y = n.y + begin(i);
    for (long left = rows(i); left > 0; left--, x += n.channels, y += n.channels)
      for (long k = 0; k < n.channels; k += WIDTH) {
        long some = n.channels - k;
        Lanes value = (load(x + k, some) - load(means + k)) * load(scales + k) + load(shifts + k);
        if (n.silu) value /= exponential(-value) + 1.0f;
        store(y + k, value, some);
      }
  }

  static void work(void* job, int, int team) {
    const GroupNorm& g = *(const GroupNorm*)job;
    for (long i; (i = take(g.counters + 1)) < g.n.count * g.pieces;) g.sum(i);
    meet(g.counters, team);
    for (long i; (i = take(g.counters + 2)) < g.n.count;) g.settle(i);
    meet(g.counters, team);
    for (long i; (i = take(g.counters + 3)) < g.n.count * g.pieces;) g.apply(i);
  }
};

}  // namespace
