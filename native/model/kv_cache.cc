// Keys and values of past tokens, side by side as the projection gives them: one slab a layer, in one allocation.
#include "model/transformer.h"

namespace rlhi {

KvCache::KvCache(const ModelConfig& config, DType dtype, int64_t rows, const ops::Table& ops, ops::Backend* backend)
    : config_(config), dtype_(dtype), rows_(rows), ops_(ops), backend_(backend) {
  check(rows > 0, ErrorCode::invalid_argument, "a key/value cache needs at least one row, not ", rows);
  data_ = ops.alloc(backend, bytes(config, dtype, rows));
  check(data_ != nullptr, ErrorCode::out_of_memory, "could not allocate ", bytes(config, dtype, rows), " bytes for a key/value cache of ",
        rows, " rows");
}

KvCache::~KvCache() { ops_.release(backend_, data_, bytes(config_, dtype_, rows_)); }

size_t KvCache::bytes(const ModelConfig& config, DType dtype, int64_t rows) {
  return static_cast<size_t>(2 * config.n_layers * rows * config.kv_width() * dtype_size(dtype));
}

Tensor KvCache::kv(int64_t layer) const {
  const int64_t width = 2 * config_.kv_width();
  return Tensor(static_cast<char*>(data_) + layer * rows_ * width * dtype_size(dtype_), dtype_, rows_, width);
}
Tensor KvCache::k(int64_t layer) const { return kv(layer).col_range(0, config_.kv_width()); }
Tensor KvCache::v(int64_t layer) const { return kv(layer).col_range(config_.kv_width(), config_.kv_width()); }

}  // namespace rlhi
