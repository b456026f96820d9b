#include "model/speed.h"

#include <algorithm>
#include <cmath>

#include "model/layer.h"
#include "ops/device_buffer.h"
#include "ops/random_block.h"

namespace rlhi {
namespace {

template <class F>
double seconds_of(ops::Device& device, const F& work) {
  return device.milliseconds(work) / 1e3;
}

PackedTokens pair_trees(int64_t trees, int64_t prompt, int64_t answer) {
  TreePacker packer;
  // An answer's last token predicts nothing and has no row.
  const std::vector<int32_t> prompt_ids(static_cast<size_t>(prompt)), answer_ids(static_cast<size_t>(answer + 1));
  for (int64_t i = 0; i < trees; ++i) packer.add_tree(prompt_ids, {answer_ids, answer_ids});
  return packer.take();
}

// The model cut to its first layer, with a vocabulary of one token.
ModelConfig first_layer(ModelConfig config) {
  config.n_layers = 1;
  config.layer_window.resize(1);
  config.vocab_size = 1;
  config.tied_embeddings = true;
  return config;
}

double norm_of(const ops::Device& device, const LayerWeights& gradients) {
  const DeviceBuffer on_device(device.table(), device.handle(), sizeof(double), "a sum");
  double squares = 0;
  for (const Tensor& t : {gradients.qkv, gradients.o, gradients.gate_up, gradients.down}) {
    double sum = 0;
    device.table().sum_of_squares(device.handle(), t, static_cast<double*>(on_device.data()));
    device.table().download(device.handle(), &sum, on_device.data(), sizeof sum);
    squares += sum;
  }
  return std::sqrt(squares);
}

}  // namespace

std::vector<double> product_seconds(const ProductShape& s, const ops::DeviceOptions& options, int64_t repeats) {
  using ops::GemmForm;
  check(!s.packed || s.form == GemmForm::nt, ErrorCode::invalid_argument, "a packed weight needs the form nt");
  const std::unique_ptr<ops::Device> device = ops::open_device(options);
  const ops::Table& ops = device->table();
  ops::Backend* backend = device->handle();
  const ops::RandomBlock random(ops, backend);
  const auto bytes = [](int64_t rows, int64_t cols, DType dtype) { return static_cast<size_t>(rows * cols * dtype_size(dtype)); };
  const DeviceBuffer a(ops, backend, bytes(s.m, s.k, s.dtype), "the left factor");
  const DeviceBuffer b(ops, backend, bytes(s.n, s.k, s.dtype), "the right factor");
  const DeviceBuffer c(ops, backend, bytes(s.m, s.n, s.out), "a product");
  const size_t packed_bytes = s.packed ? ops.packed_bytes(backend, s.dtype, s.n, s.k) : 0;
  const DeviceBuffer pack(ops, backend, packed_bytes, "a packed matrix");
  ops::GemmArgs args;
  args.form = s.form;
  args.a = s.form == GemmForm::tn ? Tensor(a.data(), s.dtype, s.k, s.m) : Tensor(a.data(), s.dtype, s.m, s.k);
  args.b = s.form == GemmForm::nt ? Tensor(b.data(), s.dtype, s.n, s.k) : Tensor(b.data(), s.dtype, s.k, s.n);
  args.c = Tensor(c.data(), s.out, s.m, s.n);
  args.accumulate = s.accumulate;
  random.fill(args.a);
  random.fill(args.b);
  ops::PackedWeight weight;
  if (packed_bytes > 0) {
    weight.data = pack.data();
    ops.pack_weight(backend, &weight, args.b);
    args.packed_b = &weight;
  }
  ops.gemm(backend, args);             // grows scratch, wakes the threads
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeats; ++i) seconds.push_back(seconds_of(*device, [&] { ops.gemm(backend, args); }));
  return seconds;
}

LayerSpeed layer_speed(const ModelConfig& whole, DType dtype, int64_t trees, int64_t prompt, int64_t answer,
                       const ops::DeviceOptions& options, int64_t repeats) {
  check(prompt + answer <= whole.max_position, ErrorCode::invalid_argument, "a prompt of ", prompt, " and an answer of ", answer,
        " tokens are longer than the model's context of ", whole.max_position);
  const ModelConfig config = first_layer(whole);
  const std::unique_ptr<ops::Device> device = ops::open_device(options);
  const ops::Table& ops = device->table();
  ops::Backend* backend = device->handle();
  const PackedTokens tokens = pair_trees(trees, prompt, answer);
  const auto weights = random_weights(config, dtype, 0, ops, backend);
  const Weights gradients(config, DType::f32, ops, backend);
  const auto lay_out = [&](void* base) { return lay_out_training(config, dtype, Recompute::norms, tokens.size(), 1, base); };
  const DeviceBuffer activations(ops, backend, lay_out(nullptr).bytes, "a layer's activations");
  const TrainingTensors t = lay_out(activations.data());
  const std::vector<float> table = rope_table(config, prompt + answer);
  const DeviceBuffer rope(ops, backend, table.size() * sizeof(float), "the rope table");
  ops.upload(backend, rope.data(), table.data(), rope.bytes());
  LayerPass pass{ops, backend, config, tokens, Tensor(rope.data(), DType::f32, prompt + answer, config.head_dim)};
  pass.accumulate = false;

  const ops::RandomBlock random(ops, backend);
  LayerSpeed speed;
  for (int64_t i = 0; i <= repeats; ++i) {
    random.fill(t.work.x);
    const double forward = seconds_of(*device, [&] { layer_forward(pass, 0, weights->layers[0], nullptr, t.layers[0], t.work); });
    random.fill(t.work.x);             // now the gradient that comes from above
    const double backward = seconds_of(*device, [&] { layer_backward(pass, 0, weights->layers[0], t.layers[0], t.work, gradients.layers[0]); });
    if (i == 0) continue;              // grew scratch, woke the threads
    speed.forward_seconds.push_back(forward);
    speed.backward_seconds.push_back(backward);
  }
  speed.gradient_norm = norm_of(*device, gradients.layers[0]);
  return speed;
}

}  // namespace rlhi
