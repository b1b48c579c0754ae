// The convolution: a block of tiles goes through the transform of inputs, then chunk by chunk of the channels outside
// through the products of each frequency and the transform of outputs, which adds the bias and the rest.
//
//   entered   V [SIZE^2][block][row]                 inputs of one block
//   packed    U [SIZE^2][panels][inside][PANEL]      weights: stream through once for each block
//   mixed     M [part][SIZE^2][CHUNK]                outputs of a part of a block; stays in the second cache
//
// Threads take whole blocks, or parts and chunks of one block; never a share of a sum. So no bit depends on how many
// they are, and none on what else is in the batch.
#pragma once
#include "pack.h"
#include "product.h"
#include "table.h"
#include "winograd.h"

namespace {

constexpr long CHUNK = 32;   // channels that leave together
constexpr long DEPTH = 320;  // most channels that are summed in one go: long sums round more. 1280 in one go have
                             // twice the error, and are 2 % quicker

template <class F>
struct Conv {
  static constexpr int SIZE = F::SIZE, OUT = F::OUT, AREA = SIZE * SIZE;
  static constexpr long PART = (1728 / AREA + ROWS - 1) / ROWS * ROWS;  // tiles; M then has about 220 kB

  const Convolution& c;
  const Shape& s;
  long across, down, tiles, block, blocks, chunks, panels, depth, row, step, entered, mixed;
  bool shared;
  float *zeros, *space;
  long* counters;  // where the team meets, then two for each block

  Conv(const Convolution& c, int threads) : c(c), s(c.shape) {
    across = parts(s.width, OUT), down = parts(s.height, OUT), tiles = s.count * across * down;
    chunks = parts(s.outside, CHUNK), panels = parts(s.outside, PANEL);
    depth = parts(s.inside, parts(s.inside, DEPTH));
    shared = threads > 1 && 3 * tiles < 2 * threads * PART;  // too few for a block each
    block = shared ? parts(8 * threads, chunks) * PART : PART;
    if (threads > 1 && !shared)  // as many blocks each
      block = parts(tiles, threads * most(1, (tiles + threads * PART / 2) / (threads * PART)));
    block = least(block, tiles);
    blocks = parts(tiles, block);
    row = parts(s.inside, LINE) * LINE + LINE;  // one line more: else strides are powers of two, and all of a tile's
    step = block * row + LINE;                  // frequencies fall into one set of the first cache
    entered = AREA * step, mixed = (shared ? least(block, PART) : block) * AREA * CHUNK;
    zeros = c.workspace;
    counters = (long*)(zeros + row);
    space = zeros + row + parts(2 * (2 * blocks + 1), LINE) * LINE;
  }

  long workspace(int threads) const { return (space - zeros) + (shared ? 1 : threads) * entered + threads * mixed; }

  void clear() {
    for (long i = 0; i < row; i++) zeros[i] = 0;
    for (long i = 0; i < 2 * blocks + 1; i++) counters[i] = 0;
  }

  // Where a tile's upper left output pixel lies: picture, row, column.
  void place(long tile, long& n, long& y, long& x) const {
    x = tile % across * OUT, y = tile / across % down * OUT, n = tile / across / down;
  }

  // B' d B of one tile, all channels. v is its row at the first frequency.
  void enter(long tile, float* v) const {
    long n, y0, x0;
    place(tile, n, y0, x0);
    const float* at[AREA];
    for (int i = 0; i < AREA; i++) {
      long y = y0 + i / SIZE - 1, x = x0 + i % SIZE - 1;
      bool inside = y >= 0 && x >= 0 && y < s.height && x < s.width;
      at[i] = inside ? c.x + ((n * s.height + y) * s.width + x) * s.inside : zeros;
    }
    for (long k = 0; k < s.inside; k += WIDTH) {
      Lanes d[AREA];
      for (int i = 0; i < AREA && k % LINE == 0; i++)  // what the next tile has, and this one has not
        if (i % SIZE >= SIZE - OUT) __builtin_prefetch(at[i] + OUT * s.inside + k, 0, 2);
      if (s.inside - k >= WIDTH)
        for (int i = 0; i < AREA; i++) d[i] = load(at[i] + k);
      else
        for (int i = 0; i < AREA; i++) d[i] = load(at[i] + k, s.inside - k);
      enter_tile<F>(d);
      for (int i = 0; i < AREA; i++) store(v + i * step + k, d[i]);
    }
  }

  // The products of one panel at one frequency. `after` is what is read after it.
  void multiply(const float* v, long count, const float* u, float* m, const float* after) const {
    long strips = parts(count, ROWS);
    int lines = (int)parts(4 * PANEL / LINE, strips);
    for (long k = 0; k < s.inside; k += depth) {
      long deep = least(depth, s.inside - k);
      const float* ahead = k + depth < s.inside ? u + (k + depth) * PANEL : after;
      for (long i = 0, t = 0; i < strips; i++) {
        long rows = count / strips + (i < count % strips);
        STRIPS[rows - 1](v + t * row + k, row, u + k * PANEL, deep, m + t * AREA * CHUNK, AREA * CHUNK, k > 0,
                         ahead + i * (deep * PANEL / strips), lines);
        t += rows;
      }
    }
  }

  void mix(const float* v, long count, long chunk, float* m) const {
    long first = chunk * (CHUNK / PANEL), last = least(first + CHUNK / PANEL, panels), size = s.inside * PANEL;
    for (int f = 0; f < AREA; f++)
      for (long panel = first; panel < last; panel++) {
        const float* u = c.packed + (f * panels + panel) * size;
        const float* after = panel + 1 < last ? u + size : c.packed + ((f + 1) % AREA * panels + first) * size;
        multiply(v + f * step, count, u, m + f * CHUNK + (panel - first) * PANEL, after);
      }
  }

  // A' p A of one tile and chunk, and what is added, to where it belongs in y.
  void leave(long tile, long chunk, const float* m) const {
    long n, y0, x0;
    place(tile, n, y0, x0);
    long rows = least(OUT, s.height - y0), columns = least(OUT, s.width - x0);
    for (long o = chunk * CHUNK; o < least((chunk + 1) * CHUNK, s.outside); o += WIDTH, m += WIDTH) {
      long lanes = s.outside - o;
      Lanes p[AREA], bias = {};
      for (int f = 0; f < AREA; f++) p[f] = load(m + f * CHUNK);
      leave_tile<F>(p);
      if (c.bias) bias = load(c.bias + o, lanes);
      if (c.each) bias += load(c.each + n * c.step + o, lanes);
      for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j++) {
          long at = ((n * s.height + y0 + i) * s.width + x0 + j) * c.step + o;
          Lanes value = p[i * SIZE + j] + bias;
          if (c.add) value += load(c.add + at, lanes);
          store(c.y + at, value, lanes);
        }
    }
  }

  // One chunk of a part of a block, whose tiles begin at `tile` and at the row v.
  void finish(long tile, long count, long chunk, const float* v, float* m) const {
    mix(v, count, chunk, m);
    for (long t = 0; t < count; t++) leave(tile + t, chunk, m + t * AREA * CHUNK);
  }

  // Each member takes blocks of its own.
  void apart(int member) const {
    float *v = space + member * (entered + mixed), *m = v + entered;
    for (long b; (b = take(counters + 1)) < blocks;) {
      long first = b * block, count = least(block, tiles - first);
      for (long t = 0; t < count; t++) enter(first + t, v + t * row);
      for (long chunk = 0; chunk < chunks; chunk++) finish(first, count, chunk, v, m);
    }
  }

  // All work at one block: first at its tiles, then at the chunks of its parts.
  void together(int member, int team) const {
    float *v = space, *m = v + entered + member * mixed;
    for (long b = 0; b < blocks; b++) {
      long first = b * block, count = least(block, tiles - first), slices = parts(count, PART);
      for (long t; (t = take(counters + 2 * b + 1)) < count;) enter(first + t, v + t * row);
      meet(counters, team);
      for (long i; (i = take(counters + 2 * b + 2)) < chunks * slices;) {
        long from = i % slices * PART;
        finish(first + from, least(PART, count - from), i / slices, v + from * row, m);
      }
      meet(counters, team);
    }
  }

  static void work(void* job, int member, int team) {
    const Conv& conv = *(const Conv*)job;
    conv.shared ? conv.together(member, team) : conv.apart(member);
  }

  static void run(const Convolution* c, int threads) {
    Conv conv(*c, threads);
    conv.clear();
    in_a_team(work, &conv, threads);
  }
};

}  // namespace
