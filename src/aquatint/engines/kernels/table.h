// What each instruction set offers, and how work is shared among threads.
//
// Pictures are float32 [count, height, width, channels], dense. Nothing is allocated: the caller gives a workspace of
// as many floats as the function before asks for, beginning at a multiple of 64 bytes. A null pointer leaves its part
// out. `long` has 64 bits on every system that this is compiled on.
#pragma once

// A 3x3 convolution, stride 1, padding 1, by F(tile x tile, 3x3), tile 2 or 4.
struct Shape {
  long tile, count, height, width, inside, outside;
};

struct Convolution {
  Shape shape;
  const float *x, *packed;
  const float *bias, *each, *add;  // what is added: [outside], [count, outside], and a picture like y
  float *y, *workspace;
  long step;  // floats from pixel to pixel in y and `add`, and from picture to picture in `each`: `outside`, or more
};

struct Norm {
  long count, pixels, channels, groups, silu;
  double eps;
  const float *x, *weight, *bias;  // weight and bias [channels]
  float *y, *workspace;            // y may be x
};

// Attention without mask. Strides are those of picture, head and row, in floats; within a row numbers are dense.
struct Attention {
  long count, heads, queries, keys, depth;
  long q_strides[3], k_strides[3], v_strides[3];
  const float *q, *k, *v;
  float *y, *workspace;  // y [count, queries, heads, depth], dense
};

struct Table {
  long (*packed)(const Shape*);  // floats of the weights, packed
  void (*pack)(const Shape*, const float* weight, const long strides[4], float* packed, int threads);
  long (*conv_workspace)(const Shape*, int threads);
  void (*conv)(const Convolution*, int threads);
  long (*norm_workspace)(const Norm*);
  void (*norm)(const Norm*, int threads);
  long (*attention_workspace)(const Attention*, int threads);
  void (*attention)(const Attention*, int threads);
};

// Work for a team: each member calls it once; `member` counts from 0.
typedef void (*Work)(void* job, int member, int team);

// Has the work done by a team of at most `threads`, and returns when all are through.
void in_a_team(Work work, void* job, int threads);

// Waits until all of a team have come here as often as oneself. The counter begins at 0.
void meet(long* counter, int team);

// The next number that nobody has taken.
static inline __attribute__((always_inline)) long take(long* counter) {
  return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}
