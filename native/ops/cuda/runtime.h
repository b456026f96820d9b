// What the backend asks of the CUDA runtime, without its headers: runtime.cc answers with the real one, emulate/runtime.cc
// with the host's memory, so that all other host code of the backend runs, and is tested, where there is no GPU.
// Everything throws rlhi::Error with the runtime's own words unless it says otherwise.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;  // cudaStream_t
struct CUevent_st;   // cudaEvent_t
struct CUgraphExec_st;  // cudaGraphExec_t

namespace rlhi::ops::cuda::runtime {

using Stream = CUstream_st*;
using Event = CUevent_st*;
using Graph = CUgraphExec_st*;

struct DeviceFacts {
  std::string name;
  int major = 0, minor = 0;      // compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
};

// Throws unsupported where there is no driver, or one too old for this library.
int device_count();
DeviceFacts device_facts(int device);
void require_kernels(const DeviceFacts& facts);  // throws unsupported for a GPU older than the kernels are written for
void use_device(int device);     // makes it the calling thread's

// What a stream is for. The emulated runtime does copies of a stream for nothing else as late as their order allows.
enum class Work { any, copies };
Stream create_stream(Work);
void destroy_stream(Stream) noexcept;
void synchronize(Stream);        // an earlier kernel's failure surfaces here

void* allocate(size_t bytes);    // nullptr where there is no room
void release(void*) noexcept;
void* allocate_pinned(size_t bytes);  // nullptr where there is no room
void release_pinned(void*) noexcept;
int64_t free_bytes();

// In stream order. Either end may also be pinned host memory. From pageable memory the source may be reused on return; from pinned memory only after an event.
void copy_in(Stream, void* to_device, const void* from_host, size_t bytes);
void copy_out(Stream, void* to_host, const void* from_device, size_t bytes);  // complete after synchronize
void zero(Stream, void* device, size_t bytes);
void zero_rows(Stream, void* device, size_t stride_bytes, size_t width_bytes, size_t rows);

Event create_event();
void destroy_event(Event) noexcept;
void record(Event, Stream);
void wait_for(Stream, Event);    // what comes later on the stream waits for what came before the event's last recording; the host does not
void wait(Event);                // the host waits; an earlier kernel's failure surfaces here
bool passed(Event);              // likewise, but for the waiting
double milliseconds(Event begin, Event end);  // both recorded and passed

// Between the two what is enqueued on the stream is kept instead of done. Only launches of kernels and products may be.
void begin_capture(Stream);
Graph end_capture(Stream);
void abandon_capture(Stream) noexcept;
void launch(Graph, Stream);
void destroy_graph(Graph) noexcept;

// A stream, an event and a graph that end with their owners.
struct OwnStream {
  explicit OwnStream(Work work = Work::any) : stream(create_stream(work)) {}
  ~OwnStream() { destroy_stream(stream); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  Stream stream;
};
struct OwnEvent {
  OwnEvent() : event(create_event()) {}
  ~OwnEvent() { destroy_event(event); }
  OwnEvent(const OwnEvent&) = delete;
  OwnEvent& operator=(const OwnEvent&) = delete;
  Event event;
};

// The least time of a few runs of the work that run() enqueues, in milliseconds.
template <class F>
double least_milliseconds(Stream stream, int times, const F& run) {
  const OwnEvent begin, end;
  double least = 0;
  for (int i = 0; i < times; ++i) {
    record(begin.event, stream);
    run();
    record(end.event, stream);
    wait(end.event);
    const double time = milliseconds(begin.event, end.event);
    least = i == 0 || time < least ? time : least;
  }
  return least;
}

struct OwnGraph {
  OwnGraph() = default;
  ~OwnGraph() {
    if (graph) destroy_graph(graph);
  }
  OwnGraph(const OwnGraph&) = delete;
  OwnGraph& operator=(const OwnGraph&) = delete;
  Graph graph = nullptr;
};

}  // namespace rlhi::ops::cuda::runtime
