// The preference objectives against worked values, and their derivatives against differences.
#include <limits>

#include "loss/preference.h"
#include "test/check.h"

using namespace rlhi;

namespace {

PairLogps example() {
  PairLogps p;
  p.policy_chosen = -20, p.policy_rejected = -31, p.ref_chosen = -22, p.ref_rejected = -30;
  p.chosen_length = 8, p.rejected_length = 10;
  return p;  // log-ratios 2 and -1: margin 3, averages 0.25 and -0.1: margin 0.35
}

LossOptions options(LossType type, double beta = 0.1) {
  LossOptions o;
  o.type = type, o.beta = beta;
  return o;
}

double log1pexp(double x) { return std::log1p(std::exp(x)); }

void expect_derivatives(const PairLogps& at, const LossOptions& o) {
  const double h = 1e-5;
  const auto loss = [&](double chosen, double rejected) {
    PairLogps p = at;
    p.policy_chosen += chosen, p.policy_rejected += rejected;
    return preference_loss(p, o).loss;
  };
  const PairLoss l = preference_loss(at, o);
  EXPECT_NEAR(l.d_chosen, (loss(h, 0) - loss(-h, 0)) / (2 * h), 1e-8);
  EXPECT_NEAR(l.d_rejected, (loss(0, h) - loss(0, -h)) / (2 * h), 1e-8);
}

}  // namespace

TEST("loss: sigmoid is -log sigmoid(beta * margin)") {
  const PairLoss l = preference_loss(example(), options(LossType::sigmoid));
  EXPECT_NEAR(l.loss, log1pexp(-0.3), 1e-14);
  EXPECT_NEAR(l.d_chosen, -0.1 / (1 + std::exp(0.3)), 1e-15);
  EXPECT_NEAR(l.d_rejected, 0.1 / (1 + std::exp(0.3)), 1e-15);
  EXPECT_NEAR(l.reward_chosen, 0.2, 1e-15);
  EXPECT_NEAR(l.reward_rejected, -0.1, 1e-15);
}

TEST("loss: label smoothing mixes in the flipped pair") {
  LossOptions o = options(LossType::sigmoid);
  o.label_smoothing = 0.1;
  EXPECT_NEAR(preference_loss(example(), o).loss, 0.9 * log1pexp(-0.3) + 0.1 * log1pexp(0.3), 1e-14);
}

TEST("loss: a policy equal to its reference has loss ln 2 and pulls both ways alike") {
  PairLogps p = example();
  p.ref_chosen = p.policy_chosen, p.ref_rejected = p.policy_rejected;
  const PairLoss l = preference_loss(p, options(LossType::sigmoid));
  EXPECT_EQ(l.loss, std::log(2.0));
  EXPECT_EQ(l.d_chosen, -0.05);
  EXPECT_EQ(l.d_rejected, 0.05);
}

TEST("loss: ipo is the squared distance of average log-ratios from 1 / (2 beta)") {
  EXPECT_NEAR(preference_loss(example(), options(LossType::ipo)).loss, (0.35 - 5) * (0.35 - 5), 1e-12);
}

TEST("loss: hinge is zero with zero gradient beyond the margin") {
  EXPECT_NEAR(preference_loss(example(), options(LossType::hinge)).loss, 0.7, 1e-14);
  const PairLoss beyond = preference_loss(example(), options(LossType::hinge, 0.5));
  EXPECT_EQ(beyond.loss, 0.0);
  EXPECT_EQ(beyond.d_chosen, 0.0);
  EXPECT_EQ(beyond.d_rejected, 0.0);
}

TEST("loss: simpo compares averages without the reference, less gamma") {
  LossOptions o = options(LossType::simpo, 2.0);
  o.simpo_gamma = 1;
  const PairLoss l = preference_loss(example(), o);
  const double margin = 2.0 * (-2.5 + 3.1) - 1;
  EXPECT_NEAR(l.loss, log1pexp(-margin), 1e-14);
  EXPECT_NEAR(l.reward_chosen, -5.0, 1e-14);
  EXPECT_NEAR(l.reward_rejected, -6.2, 1e-14);
  PairLogps other_reference = example();
  other_reference.ref_chosen = 7;
  EXPECT_EQ(preference_loss(other_reference, o).loss, l.loss);
}

TEST("loss: sft is the chosen answer's average negative log-probability") {
  const PairLoss l = preference_loss(example(), options(LossType::sft));
  EXPECT_EQ(l.loss, 2.5);
  EXPECT_EQ(l.d_chosen, -0.125);
  EXPECT_EQ(l.d_rejected, 0.0);
}

TEST("loss: rpo_alpha adds the weighted sft term to any objective") {
  for (const LossType type : {LossType::sigmoid, LossType::ipo, LossType::hinge, LossType::simpo}) {
    LossOptions o = options(type);
    const PairLoss without = preference_loss(example(), o);
    o.rpo_alpha = 0.5;
    const PairLoss with = preference_loss(example(), o);
    EXPECT_NEAR(with.loss - without.loss, 0.5 * 2.5, 1e-12);
    EXPECT_NEAR(with.d_chosen - without.d_chosen, -0.5 / 8, 1e-12);
    EXPECT_EQ(with.d_rejected, without.d_rejected);
  }
}

TEST("loss: derivatives agree with differences") {
  for (const LossType type : {LossType::sigmoid, LossType::ipo, LossType::hinge, LossType::simpo, LossType::sft}) {
    LossOptions o = options(type, 0.3);
    expect_derivatives(example(), o);
    o.rpo_alpha = 0.7;
    expect_derivatives(example(), o);
  }
  LossOptions smooth = options(LossType::sigmoid, 0.3);
  smooth.label_smoothing = 0.2;
  expect_derivatives(example(), smooth);
}

TEST("loss: enormous margins neither overflow nor lose the gradient's limit") {
  for (const double margin : {1e6, -1e6}) {
    PairLogps p = example();
    p.policy_chosen = p.ref_chosen + margin, p.policy_rejected = p.ref_rejected;
    const PairLoss l = preference_loss(p, options(LossType::sigmoid, 1.0));
    EXPECT_NEAR(l.loss, margin > 0 ? 0.0 : 1e6, 1e-6);
    EXPECT_NEAR(l.d_chosen, margin > 0 ? 0.0 : -1.0, 1e-12);
  }
}

TEST("loss: names and ranges are checked") {
  EXPECT(loss_type_from_name("ipo") == LossType::ipo);
  EXPECT(loss_type_from_name("sft") == LossType::sft);
  EXPECT_ERROR(loss_type_from_name("dpo"), ErrorCode::invalid_argument, "sigmoid, ipo, hinge, simpo or sft");
  EXPECT_ERROR(check_loss_options(options(LossType::sigmoid, 0)), ErrorCode::invalid_argument, "beta above 0");
  LossOptions o = options(LossType::hinge);
  o.label_smoothing = 0.1;
  EXPECT_ERROR(check_loss_options(o), ErrorCode::invalid_argument, "belongs to the sigmoid loss");
  o.type = LossType::sigmoid, o.label_smoothing = 0.5;
  EXPECT_ERROR(check_loss_options(o), ErrorCode::invalid_argument, "[0, 0.5)");
  o.label_smoothing = 0, o.rpo_alpha = std::numeric_limits<double>::quiet_NaN();
  EXPECT_ERROR(check_loss_options(o), ErrorCode::invalid_argument, "rpo alpha");
}
