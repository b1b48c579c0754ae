// Attention, softmax(q k' / sqrt(d)) v for each picture and head (Vaswani et al. 2017, equation 1). Keys come in blocks,
// with the running maximum and sum of Milakov & Gimelshein 2018 (arXiv:1805.02867, algorithm 3), as in Dao et al. 2022
// (arXiv:2205.14135), so that no row of the softmax is ever there in full.
//
// All is computed turned over: a lane is a query. Then both products are strips of product.h, the broadcast operand of
// the first is k as it lies in memory, and nothing is ever summed or compared across lanes. v is turned over beforehand:
//
//   turned    v' [picture][head][block][depth][BLOCK]
//   query     q' [depth][PANEL], times log2(e) / sqrt(depth): powers of two take less than those of e
//   scores    k q' [BLOCK][PANEL], then their powers;    sums   v' of these, [depth][PANEL]
//
// A member takes PANEL queries of one head and goes through all its keys: no bit depends on how many members there are,
// and none on what else is in the batch.
#pragma once
#include "lanes.h"
#include "product.h"
#include "table.h"

namespace {

constexpr long BLOCK = 126;           // keys: whole strips of 14 or of 6
constexpr long SPAN = BLOCK + LINE;   // floats from row to row of v', no power of two

// 2^x for x <= 0, and 2^-126 for less than -126: a polynomial of degree 5 for the fraction, which is off by 2e-7 at most
// (fitted to the least relative error on [-1/2, 1/2]), and the whole number goes into the exponent.
INLINE Lanes power_of_two(Lanes x) {
  constexpr float HALVES = 12582912.0f;  // 1.5 x 2^23: a float32 next to it has no fraction
  x = x < -126.0f ? every(-126.0f) : x;
  Lanes n = x + HALVES, r = x - (n - HALVES);
  Lanes sum = every(1.3276471e-3f);
  constexpr float TERMS[] = {9.6755410e-3f, 5.5507131e-2f, 2.4022120e-1f, 6.9314694e-1f, 1.0000001f};
  for (float term : TERMS) sum = sum * r + term;
  return (Lanes)((Whole)sum + ((Whole)n << 23));
}

struct Attend {
  static constexpr int VECTORS = PANEL / WIDTH;

  const Attention& a;
  long blocks, panels, scratch;
  float scale;
  long* counters;  // where the team meets, and one for each of the two rounds
  float *turned, *space;

  Attend(const Attention& a) : a(a) {
    blocks = parts(a.keys, BLOCK), panels = parts(a.queries, PANEL);
    scratch = (2 * a.depth + BLOCK) * PANEL;
    scale = (float)(1.4426950408889634 / __builtin_sqrt((double)a.depth));
    counters = (long*)a.workspace;
    turned = a.workspace + LINE;
    space = turned + a.count * a.heads * blocks * a.depth * SPAN;
  }

  long workspace(int threads) const { return (space - a.workspace) + threads * scratch; }

  // Where a head of a picture begins; `head` counts those of all pictures.
  const float* of(const float* x, const long* strides, long head) const {
    return x + head / a.heads * strides[0] + head % a.heads * strides[1];
  }

  // One block of v of one head, turned over.
  void turn(long i) const {
    long first = i % blocks * BLOCK, count = least(BLOCK, a.keys - first);
    const float* v = of(a.v, a.v_strides, i / blocks) + first * a.v_strides[2];
    float* to = turned + i * a.depth * SPAN;
    for (long key = 0; key < count; key++)
      for (long k = 0; k < a.depth; k++) to[k * SPAN + key] = v[key * a.v_strides[2] + k];
  }

  // m[r] (+)= rows r of v times u, for all of `count` rows.
  static void multiply(const float* v, long row, long count, const float* u, long inside, float* m, bool more) {
    long strips = parts(count, ROWS);
    for (long i = 0, t = 0; i < strips; i++) {
      long rows = count / strips + (i < count % strips);
      STRIPS[rows - 1](v + t * row, row, u, inside, m + t * PANEL, PANEL, more, u, 0);
      t += rows;
    }
  }

  // The scores of a block -> their powers; top and total are the running maximum and sum, and what was summed before is
  // brought to the new maximum.
  static void weigh(float* scores, long count, Lanes* top, Lanes* total, float* sums, long depth) {
    Lanes before[VECTORS];
    for (int j = 0; j < VECTORS; j++) before[j] = top[j];
    for (long i = 0; i < count; i++)
      for (int j = 0; j < VECTORS; j++) {
        Lanes s = load(scores + i * PANEL + j * WIDTH);
        top[j] = s > top[j] ? s : top[j];
      }
    Lanes sum[VECTORS] = {};  // of this block: one long sum would round more
    for (int j = 0; j < VECTORS; j++) before[j] = power_of_two(before[j] - top[j]);
    for (long i = 0; i < count; i++)
      for (int j = 0; j < VECTORS; j++) {
        Lanes p = power_of_two(load(scores + i * PANEL + j * WIDTH) - top[j]);
        store(scores + i * PANEL + j * WIDTH, p), sum[j] += p;
      }
    for (int j = 0; j < VECTORS; j++) total[j] = total[j] * before[j] + sum[j];
    for (long k = 0; k < depth; k++)
      for (int j = 0; j < VECTORS; j++) {
        float* at = sums + k * PANEL + j * WIDTH;
        store(at, load(at) * before[j]);
      }
  }

  void attend(long i, float* query) const {
    long head = i / panels, first = i % panels * PANEL, count = least(PANEL, a.queries - first);
    float *scores = query + a.depth * PANEL, *sums = scores + BLOCK * PANEL;
    const float *q = of(a.q, a.q_strides, head) + first * a.q_strides[2], *k = of(a.k, a.k_strides, head);
    for (long d = 0; d < a.depth; d++)
      for (long lane = 0; lane < PANEL; lane++) {
        query[d * PANEL + lane] = lane < count ? q[lane * a.q_strides[2] + d] * scale : 0;
        sums[d * PANEL + lane] = 0;
      }
    Lanes top[VECTORS], total[VECTORS] = {};
    for (int j = 0; j < VECTORS; j++) top[j] = every(-__builtin_inff());
    for (long block = 0; block < blocks; block++) {
      long keys = least(BLOCK, a.keys - block * BLOCK);
      multiply(k + block * BLOCK * a.k_strides[2], a.k_strides[2], keys, query, a.depth, scores, false);
      weigh(scores, keys, top, total, sums, a.depth);
      multiply(turned + (head * blocks + block) * a.depth * SPAN, SPAN, a.depth, scores, keys, sums, true);
    }
    leave(head, first, count, total, sums);
  }

  // The sums, each divided by the powers' sum, to where they belong in y, one row a query again.
  void leave(long head, long first, long count, const Lanes* total, float* sums) const {
    for (long d = 0; d < a.depth; d++)
      for (int j = 0; j < VECTORS; j++) {
        float* at = sums + d * PANEL + j * WIDTH;
        store(at, load(at) / total[j]);
      }
    for (long lane = 0; lane < count; lane++) {
      float* y = a.y + ((head / a.heads * a.queries + first + lane) * a.heads + head % a.heads) * a.depth;
      for (long d = 0; d < a.depth; d++) y[d] = sums[d * PANEL + lane];
    }
  }

  static void work(void* job, int member, int team) {
    const Attend& at = *(const Attend*)job;
    long heads = at.a.count * at.a.heads;
    for (long i; (i = take(at.counters + 1)) < heads * at.blocks;) at.turn(i);
    meet(at.counters, team);
    float* mine = at.space + member * at.scratch;
    for (long i; (i = take(at.counters + 2)) < heads * at.panels;) at.attend(i, mine);
  }

  static void run(const Attention* a, int threads) {
    Attend at(*a);
    for (int i = 0; i < 3; i++) at.counters[i] = 0;
    in_a_team(work, &at, threads);
  }
};

}  // namespace
