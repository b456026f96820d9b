// A device's table for tensors that lie in the host's memory, so that the tests of operations, which build and read their
// matrices there, run on a GPU too. Each call copies the bytes its tensors span to the device, runs there, and copies all of
// them back: gaps between rows included, so that a write outside of a view still shows.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"
#include "ops/device.h"
#include "ops/device_buffer.h"

namespace rlhi::test {

class HostTensors {
 public:
  explicit HostTensors(std::unique_ptr<ops::Device> device) : device_(std::move(device)), table_(make_table()) {}
  const ops::Table& table() const { return table_; }
  ops::Backend* handle() const { return reinterpret_cast<ops::Backend*>(const_cast<HostTensors*>(this)); }
  const ops::Table& device_table() const { return device_->table(); }
  ops::Backend* device_handle() const { return device_->handle(); }

 private:
  // The device copies of one call's memory. Addresses keep their alignment to kKeep bytes.
  class Call {
   public:
    explicit Call(ops::Backend* backend)
        : host_(*reinterpret_cast<HostTensors*>(backend)), ops(host_.device_->table()), backend(host_.device_->handle()) {}
    ~Call() {
      for (const Range& r : ranges_) ops.release(backend, r.device, r.capacity);
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    void take(Tensor& t) {
      if (t.data && t.rows > 0 && t.cols > 0) take(t.data, static_cast<size_t>(((t.rows - 1) * t.row_stride + t.cols) * dtype_size(t.dtype)));
    }
    template <class T>
    void take(T*& pointer, size_t bytes) {
      if (!pointer || bytes == 0) return;
      places_.push_back(reinterpret_cast<void**>(const_cast<std::remove_const_t<T>**>(&pointer)));
      char* begin = reinterpret_cast<char*>(const_cast<std::remove_const_t<T>*>(pointer));
      wanted_.push_back({begin, begin + bytes});
    }
    // To the device; the pointers taken now point there.
    void upload() {
      std::sort(wanted_.begin(), wanted_.end());
      for (const auto& [begin, end] : wanted_) {
        if (!ranges_.empty() && begin <= ranges_.back().end) ranges_.back().end = std::max(ranges_.back().end, end);
        else ranges_.push_back({begin, end});
      }
      for (Range& r : ranges_) {
        r.capacity = static_cast<size_t>(r.end - r.begin) + kKeep;
        r.device = static_cast<char*>(ops.alloc(backend, r.capacity));
        check(r.device != nullptr, ErrorCode::out_of_memory, "no ", r.capacity, " bytes on the device");
        r.copy = r.device + reinterpret_cast<uintptr_t>(r.begin) % kKeep;
        ops.upload(backend, r.copy, r.begin, static_cast<size_t>(r.end - r.begin));
      }
      for (void** place : places_) {
        for (const Range& r : ranges_) {
          char* at = static_cast<char*>(*place);
          if (at < r.begin || at >= r.end) continue;
          *place = r.copy + (at - r.begin);
          break;
        }
      }
    }
    void download() {
      for (const Range& r : ranges_) ops.download(backend, r.begin, r.copy, static_cast<size_t>(r.end - r.begin));
    }

   private:
    struct Range {
      char *begin = nullptr, *end = nullptr, *device = nullptr, *copy = nullptr;
      size_t capacity = 0;
    };
    static constexpr size_t kKeep = 256;
    HostTensors& host_;
    std::vector<void**> places_;
    std::vector<std::pair<char*, char*>> wanted_;
    std::vector<Range> ranges_;

   public:
    const ops::Table& ops;
    ops::Backend* backend;
  };

  // Runs f(call) between upload and download of the tensors.
  template <class F, class... Tensors>
  static void run(ops::Backend* b, const F& f, Tensors&... tensors) {
    Call call(b);
    (call.take(tensors), ...);
    call.upload();
    f(call);
    call.download();
  }
  static void take(Call& call, ops::AttentionArgs& a) {
    for (Tensor* t : {&a.q, &a.k, &a.v, &a.out, &a.lse}) call.take(*t);
  }
  static void take(Call& call, ops::LinearLogprobArgs& a) {
    for (Tensor* t : {&a.h, &a.w, &a.keep_logits}) call.take(*t);
    const size_t bytes = static_cast<size_t>(a.h.rows) * sizeof(float);
    call.take(a.logps, bytes), call.take(a.lse, bytes);
  }

  ops::Table make_table() const {
    using ops::Backend;
    ops::Table t = device_->table();
    t.alloc = [](Backend*, size_t bytes) { return std::calloc(1, std::max<size_t>(bytes, 1)); };
    t.release = [](Backend*, void* p, size_t) { std::free(p); };
    t.upload = [](Backend*, void* to, const void* from, size_t n) { std::memcpy(to, from, n); };
    t.download = t.upload;
    t.zero = [](Backend*, void* p, size_t n) { std::memset(p, 0, n); };
    t.available_bytes = [](Backend*) { return int64_t{0}; };
    t.mark = [](Backend*) { return uint64_t{0}; };
    t.passed = [](Backend*, uint64_t) { return true; };
    t.wait = [](Backend*, uint64_t) {};
    t.alloc_host = t.alloc;
    t.release_host = t.release;
    t.fetch = t.upload;
    t.repeated = ops::do_each_time;
    t.copy = [](Backend* b, Tensor to, Tensor from) { run(b, [&](Call& c) { c.ops.copy(c.backend, to, from); }, to, from); };
    t.gather_rows = [](Backend* b, Tensor to, Tensor from, const int32_t* i) { run(b, [&](Call& c) { c.ops.gather_rows(c.backend, to, from, i); }, to, from); };
    t.scatter_rows = [](Backend* b, Tensor to, Tensor from, const int32_t* i) { run(b, [&](Call& c) { c.ops.scatter_rows(c.backend, to, from, i); }, to, from); };
    t.scatter_add_rows = [](Backend* b, Tensor to, Tensor from, const int32_t* i) {
      run(b, [&](Call& c) { c.ops.scatter_add_rows(c.backend, to, from, i); }, to, from);
    };
    t.add = [](Backend* b, Tensor to, Tensor from) { run(b, [&](Call& c) { c.ops.add(c.backend, to, from); }, to, from); };
    t.column_sum = [](Backend* b, Tensor to, Tensor from) { run(b, [&](Call& c) { c.ops.column_sum(c.backend, to, from); }, to, from); };
    t.gemm = [](Backend* b, const ops::GemmArgs& given) {
      ops::GemmArgs g = given;
      run(b, [&](Call& c) { c.ops.gemm(c.backend, g); }, g.a, g.b, g.c, g.bias);
    };
    t.embedding = [](Backend* b, Tensor out, Tensor table, const int32_t* i) { run(b, [&](Call& c) { c.ops.embedding(c.backend, out, table, i); }, out, table); };
    t.rms_norm = [](Backend* b, Tensor y, Tensor x, Tensor w, float eps, int groups, Tensor rstd, Tensor kept) {
      run(b, [&](Call& c) { c.ops.rms_norm(c.backend, y, x, w, eps, groups, rstd, kept); }, y, x, w, rstd, kept);
    };
    t.rms_norm_backward = [](Backend* b, Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd, int groups, bool accumulate) {
      run(b, [&](Call& c) { c.ops.rms_norm_backward(c.backend, dx, dw, dy, x, w, rstd, groups, accumulate); }, dx, dw, dy, x, w, rstd);
    };
    t.rope = [](Backend* b, Tensor x, int head_dim, Tensor cos_sin, const int32_t* p, int direction) {
      run(b, [&](Call& c) { c.ops.rope(c.backend, x, head_dim, cos_sin, p, direction); }, x, cos_sin);
    };
    t.attention = [](Backend* b, const ops::AttentionArgs& given) {
      ops::AttentionArgs a = given;
      Call call(b);
      take(call, a);
      call.upload();
      call.ops.attention(call.backend, a);
      call.download();
    };
    t.attention_backward = [](Backend* b, const ops::AttentionBackwardArgs& given) {
      ops::AttentionBackwardArgs a = given;
      Call call(b);
      take(call, a.forward);
      for (Tensor* x : {&a.dout, &a.dq, &a.dk, &a.dv}) call.take(*x);
      call.upload();
      call.ops.attention_backward(call.backend, a);
      call.download();
    };
    t.swiglu = [](Backend* b, Tensor out, Tensor gate_up) { run(b, [&](Call& c) { c.ops.swiglu(c.backend, out, gate_up); }, out, gate_up); };
    t.swiglu_backward = [](Backend* b, Tensor d, Tensor dout, Tensor gate_up, Tensor out) {
      run(b, [&](Call& c) { c.ops.swiglu_backward(c.backend, d, dout, gate_up, out); }, d, dout, gate_up, out);
    };
    t.linear_logprob = [](Backend* b, const ops::LinearLogprobArgs& given) {
      ops::LinearLogprobArgs a = given;
      Call call(b);
      take(call, a);
      call.upload();
      call.ops.linear_logprob(call.backend, a);
      call.download();
    };
    t.linear_logprob_backward = [](Backend* b, const ops::LinearLogprobBackwardArgs& given) {
      ops::LinearLogprobBackwardArgs a = given;
      Call call(b);
      take(call, a.forward);
      for (Tensor* x : {&a.dh, &a.dw}) call.take(*x);
      call.take(a.dlogps, static_cast<size_t>(a.forward.h.rows) * sizeof(float));
      call.upload();
      call.ops.linear_logprob_backward(call.backend, a);
      call.download();
    };
    t.preference_loss = [](Backend* b, const ops::PreferenceLossArgs& given) {
      ops::PreferenceLossArgs a = given;
      int64_t rows = 0;
      for (int64_t i = 0; i < a.n; ++i) rows = std::max(rows, a.pairs[i].first + a.pairs[i].chosen + a.pairs[i].rejected);
      Call call(b);
      call.take(a.logps, static_cast<size_t>(rows) * sizeof(float)), call.take(a.dlogps, static_cast<size_t>(rows) * sizeof(float));
      call.take(a.sums, static_cast<size_t>(a.n) * sizeof(ops::PairSums));
      call.upload();
      call.ops.preference_loss(call.backend, a);
      call.download();
    };
    t.choose_tokens = [](Backend* b, Tensor logits, const ops::TokenChoice* choices, int64_t n, ops::ChosenToken* chosen) {
      Call call(b);
      call.take(logits);
      call.upload();
      call.ops.choose_tokens(call.backend, logits, choices, n, chosen);
    };
    t.adamw = [](Backend* b, const ops::AdamWArgs& given) {
      ops::AdamWArgs a = given;
      const auto n = static_cast<size_t>(a.n), moments = n * static_cast<size_t>(moment_size(a.moments));
      const size_t scales = a.moments == ops::Moments::coded ? (n + ops::kMomentBlock - 1) / ops::kMomentBlock * sizeof(float) : 0;
      Call call(b);
      call.take(a.weight, n * static_cast<size_t>(dtype_size(a.dtype)));
      call.take(a.remainder, n * sizeof(int16_t));
      call.take(a.grad, n * static_cast<size_t>(dtype_size(a.grad_dtype)));
      call.take(a.m_scales, scales), call.take(a.v_scales, scales), call.take(a.grad_scale, sizeof(float));
      HostBuffer m, v;                           // as the device wants memory of the host that it shall read and write
      if (a.moments_on_host) {
        m = HostBuffer(call.ops, call.backend, moments, "first moments"), v = HostBuffer(call.ops, call.backend, moments, "second moments");
        std::memcpy(m.data(), given.m, moments), std::memcpy(v.data(), given.v, moments);
        a.m = m.data(), a.v = v.data();
      } else {
        call.take(a.m, moments), call.take(a.v, moments);
      }
      call.upload();
      call.ops.adamw(call.backend, a);
      call.download();
      if (a.moments_on_host) {
        std::memcpy(given.m, m.data(), moments), std::memcpy(given.v, v.data(), moments);
      }
    };
    t.sum_of_squares = [](Backend* b, Tensor x, double* sum) {
      Call call(b);
      call.take(x), call.take(sum, sizeof *sum);
      call.upload();
      call.ops.sum_of_squares(call.backend, x, sum);
      call.download();
    };
    t.clip_factor = [](Backend* b, const double* squares, int64_t n, double max_norm, float* factor) {
      Call call(b);
      call.take(squares, static_cast<size_t>(n) * sizeof(double)), call.take(factor, sizeof *factor);
      call.upload();
      call.ops.clip_factor(call.backend, squares, n, max_norm, factor);
      call.download();
    };
    return t;
  }

  std::unique_ptr<ops::Device> device_;
  ops::Table table_;
};

}  // namespace rlhi::test
