// Runs a kernel's blocks on this machine's processors. Each lane of a block is a fiber with a stack of its own,
// which stops at __syncthreads; between two barriers the lanes take their turns in the order asked for, so that
// lanes that rely on each other without a barrier between them give different results in different orders.
//
// The kernel's text is compiled together with this file (-include), and launched by the address of a function.

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace {

using Word = uint64_t;
using Kernel = void (*)(Word, Word, Word, Word, Word, Word);

constexpr size_t STACK = 64 << 10;
enum Outcome : int { FINE = 0, PARTED = 1, ILLEGAL = 2, NO_MEMORY = 3 };
enum Order : int64_t { REVERSED = -1, FORWARD = 0 };  // any other number is the seed of a shuffle

struct Launch {
  Kernel kernel;
  const Word *arguments;
  unsigned blocks, lanes;
  int64_t order;
  std::atomic<unsigned> next{0};
  std::atomic<int> outcome{FINE};
};

struct Lane {
  jmp_buf at;
  bool begun, done;
};

// What a thread is at: its launch, the lane whose turn it is, and the way back to `turn`.
thread_local const Launch *launch_here;
thread_local Lane *lane_here;
thread_local jmp_buf home;
thread_local ucontext_t fresh;
thread_local volatile sig_atomic_t inside;

void live() {
  const Word *const a = launch_here->arguments;
  launch_here->kernel(a[0], a[1], a[2], a[3], a[4], a[5]);
  lane_here->done = true;
  _longjmp(home, 1);
}

// Lets a lane go on up to its next barrier or its end; false if it touched memory that is not there.
__attribute__((noinline)) bool turn(Lane *lane, char *stack) {
  lane_here = lane;
  switch (_setjmp(home)) {
    case 0:
      inside = 1;
      if (lane->begun) _longjmp(lane->at, 1);
      lane->begun = true;
      fresh.uc_stack.ss_sp = stack;
      fresh.uc_stack.ss_size = STACK;
      makecontext(&fresh, live, 0);
      setcontext(&fresh);
      return false;
    case 1:
      inside = 0;
      return true;
    default:
      inside = 0;
      return false;
  }
}

Outcome run_block(const Launch &launch, unsigned block, std::vector<Lane> &lanes, char *stacks) {
  std::vector<unsigned> order(launch.lanes);
  std::iota(order.begin(), order.end(), 0u);
  if (launch.order == REVERSED) std::reverse(order.begin(), order.end());
  std::mt19937_64 random(launch.order * 0x9E3779B97F4A7C15u + block);
  std::fill(lanes.begin(), lanes.end(), Lane{});
  blockIdx = {block, 0, 0};
  blockDim = {launch.lanes, 1, 1};
  gridDim = {launch.blocks, 1, 1};
  for (;;) {
    if (launch.order > FORWARD) std::shuffle(order.begin(), order.end(), random);
    unsigned done = 0;
    for (const unsigned number : order) {
      threadIdx = {number, 0, 0};
      if (!turn(&lanes[number], stacks + number * STACK)) return ILLEGAL;
      done += lanes[number].done;
    }
    if (done == launch.lanes) return FINE;
    if (done) return PARTED;
  }
}

void work(Launch *launch) {
  const size_t size = launch->lanes * STACK;
  void *const stacks = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stacks == MAP_FAILED) {
    launch->outcome = NO_MEMORY;
    return;
  }
  std::vector<Lane> lanes(launch->lanes);
  launch_here = launch;
  getcontext(&fresh);
  unsigned block;
  while (launch->outcome == FINE && (block = launch->next++) < launch->blocks) {
    // Of a shuffled launch the blocks come last to first, for none may rely on another's having run.
    if (launch->order != FORWARD) block = launch->blocks - 1 - block;
    if (const Outcome outcome = run_block(*launch, block, lanes, (char *)stacks); outcome != FINE)
      launch->outcome = outcome;
  }
  munmap(stacks, size);
}

struct sigaction before[2];

void caught(int signal) {
  if (inside) _longjmp(home, 2);
  // Not a lane's doing: it happens again, and then whoever looked after it before does so.
  sigaction(signal, &before[signal == SIGBUS], nullptr);
}

}  // namespace

void __syncthreads() {
  if (!_setjmp(lane_here->at)) _longjmp(home, 1);
}

// Runs all blocks and returns an Outcome. Arguments are six words, of which the kernel takes as many as it has.
extern "C" int launch_kernel(void *kernel, const Word *arguments, unsigned blocks, unsigned lanes, int64_t order) {
  Launch launch{(Kernel)kernel, arguments, blocks, lanes, order};
  struct sigaction action = {};
  action.sa_handler = caught;
  action.sa_flags = SA_NODEFER;
  sigaction(SIGSEGV, &action, &before[0]);
  sigaction(SIGBUS, &action, &before[1]);
  std::vector<std::thread> others;
  const unsigned workers = std::min(blocks, std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
  // Signals are the main thread's: none is handled on the small stack of a lane elsewhere.
  sigset_t all, own;
  sigfillset(&all);
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_SETMASK, &all, &own);
  for (unsigned i = 1; i < workers; ++i) others.emplace_back(work, &launch);
  work(&launch);
  for (std::thread &other : others) other.join();
  pthread_sigmask(SIG_SETMASK, &own, nullptr);
  sigaction(SIGSEGV, &before[0], nullptr);
  sigaction(SIGBUS, &before[1], nullptr);
  return launch.outcome;
}
