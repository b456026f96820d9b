// The measured products and the measured layer are the real ones: their results are those of plain arithmetic.
#include "model/speed.h"

#include <cmath>

#include "test/check.h"
#include "test/tiny_models.h"

namespace rlhi::test {

namespace {
ops::DeviceOptions on_threads(int threads) {
  ops::DeviceOptions cpu;
  cpu.threads = threads;
  return cpu;
}
}  // namespace

TEST("speed: a layer's gradient is the same for every number of threads and repetitions, and close in both element types") {
  for (const Architecture architecture : all_architectures()) {
    const ModelConfig c = tiny_config(architecture);
    const LayerSpeed one = layer_speed(c, DType::f32, 2, 9, 5, on_threads(1), 1);
    const LayerSpeed two = layer_speed(c, DType::f32, 2, 9, 5, on_threads(2), 3);
    EXPECT_EQ(one.forward_seconds.size(), 1u);
    EXPECT(two.forward_seconds.size() == 3u && two.backward_seconds.size() == 3u);
    for (const double s : two.backward_seconds) EXPECT(s > 0);
    EXPECT(one.gradient_norm > 0 && one.gradient_norm == two.gradient_norm);
    EXPECT_NEAR(layer_speed(c, DType::bf16, 2, 9, 5, on_threads(1), 1).gradient_norm / one.gradient_norm, 1, 0.02);
    // Other tokens, another gradient: the trees are what was asked for.
    EXPECT(layer_speed(c, DType::f32, 1, 9, 5, on_threads(1), 1).gradient_norm < one.gradient_norm);
  }
  const ModelConfig c = tiny_config(Architecture::llama);
  EXPECT_ERROR(layer_speed(c, DType::f32, 1, 100, 29, on_threads(1), 1), ErrorCode::invalid_argument, "context of 128");
}

TEST("speed: products of every form are timed, one time a repetition; what a form does not allow is refused") {
  for (const ops::GemmForm form : {ops::GemmForm::nt, ops::GemmForm::nn, ops::GemmForm::tn})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto seconds = product_seconds({form, 33, 17, 65, dtype, DType::f32, true}, on_threads(2), 3);
      EXPECT_EQ(seconds.size(), 3u);
      for (const double s : seconds) EXPECT(s > 0);
    }
  EXPECT_EQ(product_seconds({ops::GemmForm::nt, 5, 17, 65, DType::bf16, DType::bf16, false, true}, on_threads(1), 2).size(), 2u);
  const ProductShape packed{ops::GemmForm::tn, 5, 17, 65, DType::f32, DType::f32, false, true};
  EXPECT_ERROR(product_seconds(packed, on_threads(1), 1), ErrorCode::invalid_argument, "packed");
  EXPECT_EQ(product_seconds({ops::GemmForm::tn, 5, 17, 65, DType::bf16, DType::bf16, true}, on_threads(1), 2).size(), 2u);
}

}  // namespace rlhi::test
