// The functions of one instruction set; compiled once for each.
#include "attend.h"
#include "conv.h"
#include "norm.h"

namespace {

long packed(const Shape* s) { return s->tile == 4 ? Pack<Four>::size(*s) : Pack<Two>::size(*s); }

template <class F>
void pack_by(const Shape* s, const float* weight, const long* strides, float* packed, int threads) {
  Pack<F> pack{*s, weight, strides, packed};
  in_a_team(Pack<F>::work, &pack, threads);
}

void pack(const Shape* s, const float* weight, const long strides[4], float* packed, int threads) {
  s->tile == 4 ? pack_by<Four>(s, weight, strides, packed, threads) : pack_by<Two>(s, weight, strides, packed, threads);
}

long conv_workspace(const Shape* s, int threads) {
  Convolution c = {};
  c.shape = *s;
  return s->tile == 4 ? Conv<Four>(c, threads).workspace(threads) : Conv<Two>(c, threads).workspace(threads);
}

void conv(const Convolution* c, int threads) {
  c->shape.tile == 4 ? Conv<Four>::run(c, threads) : Conv<Two>::run(c, threads);
}

long norm_workspace(const Norm* n) { return GroupNorm(*n).workspace(); }

void norm(const Norm* n, int threads) {
  GroupNorm group_norm(*n);
  for (int i = 0; i < 4; i++) group_norm.counters[i] = 0;
  in_a_team(GroupNorm::work, &group_norm, threads);
}

long attention_workspace(const Attention* a, int threads) { return Attend(*a).workspace(threads); }

void attention(const Attention* a, int threads) { Attend::run(a, threads); }

}  // namespace

#define NAMED(isa) table_##isa
#define NAME(isa) NAMED(isa)
extern const Table NAME(ISA);
const Table NAME(ISA) = {packed, pack, conv_workspace, conv, norm_workspace, norm,
                         attention_workspace, attention};
