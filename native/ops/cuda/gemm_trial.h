// A product tried with several algorithms: do they give the same bits, and how long do they take?
//
// The operands are made so that two orders of a sum cannot hide behind the rounding of its result: the second half of every sum
// is the first with the other sign, and what is left is nothing but the rounding on the way. A bias, and what is accumulated to, is
// no larger than that, for the same reason.
#pragma once
#include <functional>
#include <vector>

#include "ops/cuda/launch.h"
#include "ops/cuda/runtime.h"

namespace rlhi::ops::cuda {

class GemmTrial {
 public:
  // Shapes, types and form of `shape` (nt or nn, a and b of one type); its memory is not touched.
  GemmTrial(const Launch& launch, const GemmArgs& shape);
  bool ready() const { return ready_; }    // false where there is no memory for a trial
  const GemmArgs& args() const { return args_; }
  // What others are held against: `multiply` computes `args`, those above or fewer rows of them.
  void begin(const GemmArgs& args, const std::function<void()>& multiply);
  // Whether `multiply` gives the same bits of c, and sooner than the best so far, which it then is.
  bool is_better(const std::function<void()>& multiply);

 private:
  struct Memory {
    ~Memory();
    bool take(size_t bytes);
    void* data = nullptr;
  };
  void fill();
  void run(const std::function<void()>& multiply, std::vector<char>& c);
  Launch launch_;
  GemmArgs args_;
  Memory a_, b_, c_, bias_, rows_, order_;
  size_t c_bytes_ = 0;                     // of the rows tried
  std::vector<char> before_;               // what c is at first, where products are added to it
  std::vector<char> expected_, found_;
  double least_ = 0;                       // milliseconds
  bool ready_ = false;
};

}  // namespace rlhi::ops::cuda
