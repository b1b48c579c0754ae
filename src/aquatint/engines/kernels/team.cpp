// Teams of threads. Where an OpenMP runtime is loaded already (torch's) its threads are taken: a pool of our own would
// find the cores busy, for its threads spin for some milliseconds after each piece of work. Else threads are started
// for the call and end with it.
#include <dlfcn.h>
#include <sched.h>

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "table.h"

namespace {

// What compilers call for `#pragma omp parallel`; LLVM's and Intel's runtimes have it too.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags) = nullptr;
  int (*member)() = nullptr;
  int (*team)() = nullptr;

  OpenMP() {
    void* found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    Dl_info info;
    if (!found || !dladdr(found, &info)) return;
    void* runtime = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);  // all three of the same one
    if (!runtime) return;
    member = (int (*)())dlsym(runtime, "omp_get_thread_num");
    team = (int (*)())dlsym(runtime, "omp_get_num_threads");
    if (member && team) parallel = (decltype(parallel))found;
  }
};

const OpenMP& openmp() {
  static const OpenMP runtime;
  return runtime;
}

struct Call {
  Work work;
  void* job;
};

void enter(void* call) { ((Call*)call)->work(((Call*)call)->job, openmp().member(), openmp().team()); }

void with_own_threads(Work work, void* job, int threads) {
  std::atomic<int> team{0};  // 0 until it is known how many threads there are
  std::vector<std::thread> others;
  try {
    others.reserve(threads - 1);
    for (int member = 1; member < threads; member++)
      others.emplace_back([=, &team] {
        while (!team.load(std::memory_order_acquire)) sched_yield();
        work(job, member, team.load());
      });
  } catch (const std::exception&) {  // no more of them to be had: those that there are do it
  }
  team.store((int)others.size() + 1, std::memory_order_release);
  work(job, 0, team.load());
  for (std::thread& other : others) other.join();
}

}  // namespace

void in_a_team(Work work, void* job, int threads) {
  if (threads <= 1) return work(job, 0, 1);
  Call call{work, job};
  if (openmp().parallel) return openmp().parallel(enter, &call, (unsigned)threads, 0);
  with_own_threads(work, job, threads);
}

void meet(long* counter, int team) {
  long mine = __atomic_add_fetch(counter, 1, __ATOMIC_ACQ_REL), last = (mine + team - 1) / team * team;
  for (long looks = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < last; looks++)
    if (looks > 2000) sched_yield();  // where cores are few, the one that we wait for may need ours
}
