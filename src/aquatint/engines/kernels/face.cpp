// What Python calls. `isa` is 0 (portable), 1 (AVX2 and FMA) or 2 (AVX-512), and must be one that the processor has.
#include "table.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

extern const Table table_portable;
#if defined(__x86_64__)
extern const Table table_avx2, table_avx512;
#endif

static const Table& table(int isa) {
#if defined(__x86_64__)
  if (isa == 2) return table_avx512;
  if (isa == 1) return table_avx2;
#endif
  (void)isa;
  return table_portable;
}

#define FACE extern "C" __attribute__((visibility("default")))

// The best instruction set of this processor.
FACE int aquatint_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") ? 2 : 1;
#endif
  return 0;
}

// Asks for large pages, of which the weights' stream needs 500 times fewer; a system may say no.
FACE void aquatint_large_pages(void* begin, long bytes) {
#if defined(__linux__)
  constexpr unsigned long PAGE = 2 << 20;
  unsigned long first = (unsigned long)begin, last = first + bytes;
  unsigned long from = (first + PAGE - 1) / PAGE * PAGE, to = last / PAGE * PAGE;
  if (from < to) madvise((void*)from, to - from, MADV_HUGEPAGE);
#else
  (void)begin, (void)bytes;
#endif
}

FACE long aquatint_packed(int isa, const Shape* shape) { return table(isa).packed(shape); }

FACE void aquatint_pack(int isa, const Shape* s, const float* weight, const long* strides, float* packed, int threads) {
  table(isa).pack(s, weight, strides, packed, threads);
}

FACE long aquatint_conv_workspace(int isa, const Shape* s, int threads) {
  return table(isa).conv_workspace(s, threads);
}
FACE void aquatint_conv(int isa, const Convolution* c, int threads) { table(isa).conv(c, threads); }
FACE long aquatint_norm_workspace(int isa, const Norm* n) { return table(isa).norm_workspace(n); }
FACE void aquatint_norm(int isa, const Norm* n, int threads) { table(isa).norm(n, threads); }
FACE long aquatint_attention_workspace(int isa, const Attention* a, int threads) {
  return table(isa).attention_workspace(a, threads);
}
FACE void aquatint_attention(int isa, const Attention* a, int threads) { table(isa).attention(a, threads); }
