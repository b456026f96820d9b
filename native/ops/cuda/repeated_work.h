// Work of many small launches that comes again and again, a decoding step of a small model: launched as one CUDA graph.
//
// The first time it runs as it is, which chooses algorithms and grows scratch. The second time its launches are captured into a graph and
// written down (recorder.h), and the arrays it brings from the host get places of their own. From then on the work is rehearsed: that fills
// those places with the arrays of this time and compares every launch. Where all are the same the arrays are copied and the graph is
// launched; where one differs (a list outgrew its place, a tensor lies elsewhere) the work is captured anew. So a graph is never launched
// that is not, byte for byte, what the work would have enqueued.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "ops/cuda/recorder.h"
#include "ops/cuda/runtime.h"

namespace rlhi::ops::cuda {

// The host's arrays of one recorded piece of work, in one block of pinned memory and one of the device.
class RecordedArrays {
 public:
  static constexpr size_t kBytes = size_t{1} << 20;
  RecordedArrays();
  ~RecordedArrays();
  RecordedArrays(const RecordedArrays&) = delete;
  RecordedArrays& operator=(const RecordedArrays&) = delete;

  void begin_rehearsal();
  // While recording: a place, that of an equal array before it where there is one. Throws out_of_memory where the block is full.
  const void* add(const void* host, size_t bytes);
  // While rehearsing: the place that this array had then; null where it is too large for it, or differs from one that shares it.
  const void* fill(const void* host, size_t bytes);
  void copy_to_device(runtime::Stream stream);

 private:
  struct Place {
    size_t offset, capacity, bytes;
    bool filled;                       // in this rehearsal
  };
  char *pinned_ = nullptr, *device_ = nullptr;
  size_t used_ = 0;
  std::vector<Place> places_;
  std::vector<size_t> calls_;          // the place of each array, in the order in which they were asked for
  size_t next_call_ = 0;
  runtime::OwnEvent copied_;
  bool copying_ = false;
};

class RepeatedWork {
 public:
  RepeatedWork(Recorder& recorder, runtime::Stream stream) : recorder_(recorder), stream_(stream) {}

  // ops.h, Table::repeated. What `work` throws is thrown, after it was run as it is.
  void run(uint64_t key, void (*work)(void*), void* context);
  // While work is recorded or rehearsed its arrays have places of their own. null: the array does not fit into its own, and the rehearsal is in vain.
  bool has_places() const { return current_ != nullptr; }
  const void* place_of(const void* host, size_t bytes);
  int64_t graph_launches() const { return graph_launches_; }

 private:
  static constexpr size_t kMost = 16;  // recordings kept: those used last
  struct Recording {
    std::vector<unsigned char> log;
    RecordedArrays arrays;
    runtime::OwnGraph graph;
  };
  struct Seen {
    std::unique_ptr<Recording> recording;
    uint64_t used = 0;
    int runs = 0;                      // as it is, before it is recorded again
    int patience = 1;                  // that many, doubled each time a recording was of no use
  };
  bool rehearse(Recording& recording, void (*work)(void*), void* context);
  std::unique_ptr<Recording> record(void (*work)(void*), void* context);
  void launch(Recording& recording);
  void forget_oldest();

  Recorder& recorder_;
  runtime::Stream stream_;
  RecordedArrays* current_ = nullptr;
  std::map<uint64_t, Seen> seen_;
  uint64_t clock_ = 0;
  int64_t graph_launches_ = 0;
};

}  // namespace rlhi::ops::cuda
