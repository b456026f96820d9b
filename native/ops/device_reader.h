// Backend memory on its way to the host's: read piece by piece, or copied whole so that files can be written from it later.
#pragma once
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "ops/device_buffer.h"

namespace rlhi {

struct DeviceBytes {
  const void* data;
  size_t bytes;                // a multiple of the element's size
};
// Receives bytes in order, in any number of pieces, none of which cuts an element.
using ByteSink = std::function<void(const void* data, size_t bytes)>;
// Hands over all bytes of the next tensor of a row of them.
using NextBytes = std::function<void(const ByteSink& sink)>;

// Reads some places one after the other through two buffers of the host: while the sink has a piece, the next one comes. Between two calls
// of next() fewer marks may be set than the table keeps.
class DeviceReader {
 public:
  static constexpr size_t kPieceBytes = size_t{4} << 20;
  // Throws out_of_memory.
  DeviceReader(std::vector<DeviceBytes> sources, const ops::Table& ops, ops::Backend* backend, size_t piece_bytes = kPieceBytes);
  ~DeviceReader();             // a piece on its way arrives before its buffer goes
  DeviceReader(const DeviceReader&) = delete;
  DeviceReader& operator=(const DeviceReader&) = delete;

  void next(const ByteSink& sink);

 private:
  void request();

  const std::vector<DeviceBytes> sources_;
  const ops::Table& ops_;
  ops::Backend* backend_;
  size_t piece_bytes_ = 0;
  std::array<HostBuffer, 2> buffers_;
  std::array<uint64_t, 2> marks_ = {};
  size_t next_source_ = 0;                       // whose bytes next() will hand over
  size_t source_ = 0, offset_ = 0;               // of the piece that will be requested
  size_t requested_ = 0, taken_ = 0;             // pieces; at most one more requested than taken outside of next()
};

// The rest of a save whose bytes have been taken: writes the files, on any thread, and frees the bytes when it goes. Throws what the save
// would have, and aborted soon after `abort` was set: no file is there then under its name that was not whole.
using DeferredWrite = std::function<void(const std::atomic<bool>& abort)>;

class HostCopy {
 public:
  // Of all the sources, at the speed of the bus. Null where the machine has no room for it (room_for_copy). Throws aborted.
  static std::shared_ptr<const HostCopy> take(std::vector<DeviceBytes> sources, const ops::Table& ops, ops::Backend* backend,
                                              const std::atomic<bool>* abort = nullptr);
  // The sources from the first on, one a call.
  NextBytes reader(const std::atomic<bool>& abort) const;

 private:
  HostCopy() = default;

  std::vector<DeviceBytes> places_;              // in bytes_
  std::unique_ptr<char[]> bytes_;
};

// Whether `bytes` can be copied where `available` are free (0: not known). An eighth of them, and 1 GiB at least, is left: for the files'
// pages on their way to the disk, and for what else the process asks for while they are written.
bool room_for_copy(size_t bytes, int64_t available);

}  // namespace rlhi
