#include "ops/cuda/repeated_work.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace rlhi::ops::cuda {
namespace {

constexpr size_t kPlace = 256;             // alignment of a place
constexpr int kMostPatience = 64;

}  // namespace

RecordedArrays::RecordedArrays() : pinned_(static_cast<char*>(runtime::allocate_pinned(kBytes))), device_(static_cast<char*>(runtime::allocate(kBytes))) {
  if (pinned_ && device_) return;
  if (pinned_) runtime::release_pinned(pinned_);
  if (device_) runtime::release(device_);
  fail(ErrorCode::out_of_memory, "no ", kBytes, " bytes for the lists of a CUDA graph");
}
RecordedArrays::~RecordedArrays() {
  runtime::release(device_);               // waits for the work that uses it
  runtime::release_pinned(pinned_);
}

void RecordedArrays::begin_rehearsal() {
  if (copying_) runtime::wait(copied_.event);
  copying_ = false;
  next_call_ = 0;
  for (Place& p : places_) p.filled = false;
}

const void* RecordedArrays::add(const void* host, size_t bytes) {
  auto place = std::find_if(places_.begin(), places_.end(),
                            [&](const Place& p) { return p.bytes == bytes && std::memcmp(pinned_ + p.offset, host, bytes) == 0; });
  if (place == places_.end()) {
    const size_t capacity = (bytes + bytes / 2 + kPlace) / kPlace * kPlace;  // lists grow as answers do
    check(used_ + capacity <= kBytes, ErrorCode::out_of_memory, "the lists of this work take more than ", kBytes, " bytes");
    place = places_.insert(places_.end(), {used_, capacity, bytes, true});
    used_ += capacity;
    std::memcpy(pinned_ + place->offset, host, bytes);
  }
  calls_.push_back(static_cast<size_t>(place - places_.begin()));
  return device_ + place->offset;
}

const void* RecordedArrays::fill(const void* host, size_t bytes) {
  if (next_call_ == calls_.size()) return nullptr;
  Place& place = places_[calls_[next_call_++]];
  if (bytes > place.capacity) return nullptr;
  char* const at = pinned_ + place.offset;
  if (place.filled) return place.bytes == bytes && std::memcmp(at, host, bytes) == 0 ? device_ + place.offset : nullptr;
  std::memcpy(at, host, bytes);
  place.bytes = bytes, place.filled = true;
  return device_ + place.offset;
}

void RecordedArrays::copy_to_device(runtime::Stream stream) {
  if (used_ == 0) return;
  runtime::copy_in(stream, device_, pinned_, used_);
  runtime::record(copied_.event, stream);
  copying_ = true;
}

const void* RepeatedWork::place_of(const void* host, size_t bytes) {
  if (recorder_.mode() == Recorder::Mode::recording) return current_->add(host, bytes);
  const void* place = current_->fill(host, bytes);
  if (!place) recorder_.differs();
  return place;
}

void RepeatedWork::run(uint64_t key, void (*work)(void*), void* context) {
  if (current_) return work(context);       // a part of work that is recorded itself
  Seen& seen = seen_[key];
  seen.used = ++clock_;
  if (seen.recording && rehearse(*seen.recording, work, context)) {
    seen.patience = 1;
    return launch(*seen.recording);
  }
  if (seen.recording) {
    seen.recording.reset();
    seen.runs = 0;
    seen.patience = std::min(2 * seen.patience, kMostPatience);
  }
  if (seen.runs++ < seen.patience) return work(context);
  seen.recording = record(work, context);
  if (!seen.recording) {
    seen.runs = 0;
    seen.patience = kMostPatience;
    return work(context);
  }
  forget_oldest();
  launch(*seen.recording);
}

bool RepeatedWork::rehearse(Recording& recording, void (*work)(void*), void* context) {
  recording.arrays.begin_rehearsal();
  recorder_.begin(Recorder::Mode::rehearsing, recording.log);
  current_ = &recording.arrays;
  bool went_through = true;
  try {
    work(context);
  } catch (const Error&) {                  // the run as it is will say so
    went_through = false;
  }
  current_ = nullptr;
  return recorder_.end() && went_through;
}

std::unique_ptr<RepeatedWork::Recording> RepeatedWork::record(void (*work)(void*), void* context) {
  bool capturing = false;
  try {
    auto recording = std::make_unique<Recording>();
    runtime::begin_capture(stream_);
    capturing = true;
    recorder_.begin(Recorder::Mode::recording, recording->log);
    current_ = &recording->arrays;
    work(context);
    current_ = nullptr;
    recorder_.end();
    capturing = false;
    recording->graph.graph = runtime::end_capture(stream_);
    return recording;
  } catch (const Error&) {                  // likewise
    current_ = nullptr;
    if (recorder_.mode() != Recorder::Mode::off) recorder_.end();
    if (capturing) runtime::abandon_capture(stream_);
    return nullptr;
  }
}

void RepeatedWork::launch(Recording& recording) {
  recording.arrays.copy_to_device(stream_);
  runtime::launch(recording.graph.graph, stream_);
  ++graph_launches_;
}

void RepeatedWork::forget_oldest() {
  const auto kept = std::count_if(seen_.begin(), seen_.end(), [](const auto& s) { return s.second.recording != nullptr; });
  if (static_cast<size_t>(kept) <= kMost) return;
  const auto age = [](const auto& s) { return s.second.recording ? s.second.used : UINT64_MAX; };
  std::min_element(seen_.begin(), seen_.end(), [&](const auto& a, const auto& b) { return age(a) < age(b); })->second.recording.reset();
}

}  // namespace rlhi::ops::cuda
