// Memory of a backend: alloc, release, upload, download, zero, available_bytes; marks, and what is fetched into the host's.
#include "test/op_table/op_table.h"

namespace rlhi::test {
namespace {

class MemoryCase : public OpCase {
 public:
  explicit MemoryCase(int64_t bytes) : bytes_(static_cast<size_t>(bytes)), given_(bytes_) {
    for (size_t i = 0; i < bytes_; ++i) given_[i] = static_cast<char>(i * 37 + i / 251 + 1);
  }
  ~MemoryCase() override { release(); }
  void prepare(const ops::Table& ops, ops::Backend* backend) override {
    release();
    ops_ = &ops, backend_ = backend;
    memory_ = ops.alloc(backend, bytes_);
    EXPECT(memory_ != nullptr && ops.available_bytes(backend) >= 0);
    if (on_cpu()) EXPECT(reinterpret_cast<uintptr_t>(memory_) % 64 == 0);
    expect_bytes("new memory", std::vector<char>(bytes_, 0));
    ops.upload(backend, memory_, given_.data(), bytes_);
    expect_bytes("what was uploaded", given_);
    expect_fetched();
  }
  void call(const ops::Table& ops, ops::Backend* backend) override { ops.zero(backend, memory_, bytes_ - bytes_ / 4); }
  void check(const ops::Table&, ops::Backend*) override {
    std::vector<char> expected = given_;
    std::fill(expected.begin(), expected.end() - static_cast<std::ptrdiff_t>(bytes_ / 4), '\0');
    expect_bytes("memory whose first three quarters were set to zero", expected);
  }

 private:
  void expect_bytes(const char* what, const std::vector<char>& expected) const {
    std::vector<char> found(bytes_, 'x');
    ops_->download(backend_, found.data(), memory_, bytes_);
    for (size_t i = 0; i < bytes_; ++i) {
      if (found[i] != expected[i])
        throw std::runtime_error(
            concat(what, ": byte ", i, " is ", static_cast<int>(found[i]), ", expected ", static_cast<int>(expected[i])));
    }
  }
  void expect_fetched() {
    char* host = static_cast<char*>(ops_->alloc_host(backend_, bytes_));
    EXPECT(host != nullptr && std::all_of(host, host + bytes_, [](char c) { return c == 0; }));
    ops_->fetch(backend_, host, memory_, bytes_);
    const uint64_t mark = ops_->mark(backend_);
    ops_->wait(backend_, mark);
    EXPECT(ops_->passed(backend_, mark));
    EXPECT(std::equal(host, host + bytes_, given_.begin()));
    ops_->release_host(backend_, host, bytes_);
  }
  void release() {
    if (memory_) ops_->release(backend_, memory_, bytes_);
    memory_ = nullptr;
  }

  size_t bytes_;
  std::vector<char> given_;
  const ops::Table* ops_ = nullptr;
  ops::Backend* backend_ = nullptr;
  void* memory_ = nullptr;
};

}  // namespace

std::vector<OpCaseMaker> OpCases::memory_edges() {
  std::vector<OpCaseMaker> all;
  for (const int64_t bytes :
       around({64, 4096, int64_t{1} << 20})) {   // a line; zero's unit; its tasks, and pages instead of the heap's memory
    all.push_back(op_case<MemoryCase>(concat(bytes, " bytes"), bytes));
  }
  return all;
}
std::vector<OpCaseMaker> OpCases::memory_model() {
  return {op_case<MemoryCase>("zero 1024 x 3072 f32", int64_t{1024} * 3072 * 4 * 4 / 3)};
}

}  // namespace rlhi::test
