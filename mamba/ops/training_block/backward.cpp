#include <mlx/ops.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "mamba/ops/accumulate/kernel.h"
#include "mamba/ops/linear/multiply.h"
#include "mamba/ops/rms_norm/kernel.h"
#include "mamba/ops/training_block/arrays.h"
#include "mamba/ops/training_block/node.h"

namespace mamba::ops::training_block_detail {

namespace mx = mlx::core;
using linear_detail::ProductsAtOnce;
using linear_detail::size_of;
using linear_detail::Workspace;

namespace {

// Where gradients that only the block itself needs lie, (B, L, ...) of T each, and what else kernels want.
struct Within {
  void* gated;   // (D); then that of what x_proj takes
  void* u;       // (D): what the scan and x_proj have of it
  void* delta;   // (D)
  void* dt_B_C;  // (R + 2 N)
  void* xz;      // (2 D)
  void* normed;  // (M)
  float *scan, *conv, *norm;
};

// Of those that need no memory of their own while they are computed; those of projections are null where they are not
// wanted.
struct Results {
  void *x, *norm, *in_proj, *conv_weight, *conv_bias, *x_proj, *dt_proj, *D, *dt_bias, *out_proj;
  float *A, *wide_residual;
};

struct BackwardJob {
  Arrays arrays;
  ProductsAtOnce products;
  Matrix gy;  // (B L, M)
  cpu::Rows gsum, sum;
  cpu::Element sum_element;
  Results results;
  Within within{};

  // All of it lies in the memory that products share, so that it is still near from the block before. Returns what it
  // takes and, as the last part, where products may work.
  std::pair<int64_t, float*> lay_out(float* base) {
    const Arrays& a = arrays;
    const int64_t rows = a.batch * a.length;
    int64_t at = 0;
    const auto take = [&](int64_t floats) {
      float* part = base == nullptr ? nullptr : base + at;
      at += (floats + 15) / 16 * 16;
      return part;
    };
    const auto columns = [&](int64_t count) { return take((rows * count * size_of(a.type) + 3) / 4); };
    within = {.gated = columns(a.inner),
              .u = columns(a.inner),
              .delta = columns(a.inner),
              .dt_B_C = columns(a.projected()),
              .xz = columns(2 * a.inner),
              .normed = columns(a.width),
              .scan = take(scan::workspace_floats(a.batch, a.inner, a.states)),
              .conv = take(conv::shares_floats(a.batch, a.inner, a.taps)),
              .norm = take(norm::num_groups(rows) * a.width)};
    float* const products_at = take(a.workspace_floats(products));
    return {at, products_at};
  }

  void run() {
    const std::unique_lock<std::mutex> locked = Workspace::instance().lock();
    products.set_workspace(lay_out(Workspace::instance().data()).second);
    out_proj();
    scan();
    projections();
    convolution();
    in_proj();
    norm();
  }

 private:
  // Of a layer with weights (n, k).
  void layer(const Matrix& dy, const Matrix& weight, const Matrix& x, int64_t n, int64_t k, const MatrixPlace& dx,
             void* dweight) {
    products.gradients(dy, weight, x, n, k, dx, {.data = dweight, .stride = k, .type = arrays.type});
  }

  void out_proj() {
    const Arrays& a = arrays;
    layer(gy, a.out_proj, a.matrix(a.between.gated, a.inner), a.width, a.inner, a.place_of(within.gated, a.inner),
          results.out_proj);
  }

  void scan() const {
    const Arrays& a = arrays;
    scan::backward(a.scan, {.y = a.rows(within.gated, a.inner), .state = nullptr, .kept = a.between.states},
                   {.u = within.u,
                    .delta = within.delta,
                    .A = results.A,
                    .B = a.at(within.dt_B_C, a.rank),
                    .C = a.at(within.dt_B_C, a.rank + a.states),
                    .BC_stride = a.projected(),
                    .D = results.D,
                    .z = a.at(within.xz, a.inner),
                    .z_stride = 2 * a.inner,
                    .delta_bias = results.dt_bias,
                    .initial_state = nullptr,
                    .workspace = within.scan});
  }

  // dt_proj and x_proj, and what comes to u.
  void projections() {
    const Arrays& a = arrays;
    const Matrix delta = a.matrix(within.delta, a.inner);
    const Matrix dt_B_C = a.matrix(within.dt_B_C, a.projected());
    layer(delta, a.dt_proj, a.matrix(a.between.dt_B_C, a.projected()), a.inner, a.rank,
          a.place_of(within.dt_B_C, a.projected()), results.dt_proj);
    layer(dt_B_C, a.x_proj, a.matrix(a.between.conv, a.inner), a.projected(), a.inner,
          a.place_of(within.gated, a.inner), results.x_proj);
    accumulate_detail::add({.count = a.batch * a.length * a.inner,
                            .sum = {within.u, a.element},
                            .value = {within.gated, a.element},
                            .out = within.u});
  }

  void convolution() const {
    const Arrays& a = arrays;
    conv::backward(a.conv, {.gy = a.rows(within.u, a.inner),
                            .gstate = nullptr,
                            .x = within.xz,
                            .x_stride = 2 * a.inner,
                            .weight = results.conv_weight,
                            .bias = results.conv_bias,
                            .initial_state = nullptr,
                            .shares = within.conv});
  }

  void in_proj() {
    const Arrays& a = arrays;
    const Matrix xz = a.matrix(within.xz, 2 * a.inner);
    layer(xz, a.in_proj, a.matrix(a.between.normed, a.width), 2 * a.inner, a.width, a.place_of(within.normed, a.width),
          results.in_proj);
  }

  void norm() const {
    const Arrays& a = arrays;
    norm::backward({.batch = a.batch,
                    .length = a.length,
                    .channels = a.width,
                    .eps = a.eps,
                    .x = sum,
                    .x_element = sum_element,
                    .weight = a.norm,
                    .wide_weight = a.wide_norm,
                    .gy = a.rows(within.normed, a.width),
                    .gy_element = a.element,
                    .gsum = gsum,
                    .gsum_element = sum_element},
                   {.x = results.x,
                    .x_element = a.element,
                    .wide = results.wide_residual,
                    .weight = results.norm,
                    .weight_element = a.norm.element,
                    .shares = within.norm});
  }
};

// Outputs of the gradients' node behind those of the inputs that there always are.
struct Extra {
  int conv_bias = -1;
  int wide_residual = -1;
};

Extra extra_of(const Settings& settings, bool residual_is_wider) {
  Extra extra;
  int next = kConvState;
  if (settings.conv_bias >= 0) {
    extra.conv_bias = next++;
  }
  if (residual_is_wider) {
    extra.wide_residual = next++;
  }
  return extra;
}

bool is_residual_wider(const std::vector<mx::array>& inputs, const Settings& settings) {
  return settings.residual >= 0 && inputs[static_cast<size_t>(settings.residual)].dtype() != inputs[kX].dtype();
}

constexpr std::array<Output, 8> kKept = {kSum, kNormed, kXz, kConv, kDtBC, kDelta, kGated, kStates};

}  // namespace

std::vector<mx::array> TrainingBlock::vjp(const std::vector<mx::array>& primals,
                                          const std::vector<mx::array>& cotangents, const std::vector<int>& argnums,
                                          const std::vector<mx::array>& outputs) {
  GradientSettings settings{.block = settings_, .wanted = {}};
  const auto is_asked = [&](int i) { return std::find(argnums.begin(), argnums.end(), i) != argnums.end(); };
  for (const Input i : {kInProj, kXProj, kDtProj, kOutProj}) {
    settings.wanted[i] = is_asked(i);
  }
  std::vector<mx::array> inputs = primals;
  for (const Output i : kKept) {
    inputs.push_back(outputs[i]);
  }
  inputs.push_back(cotangents[kY]);
  inputs.push_back(cotangents[kSum]);
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (int i = 0; i < kConvState; ++i) {
    const auto at = static_cast<size_t>(i);
    const bool is_projection = i == kInProj || i == kXProj || i == kDtProj || i == kOutProj;
    shapes.push_back(is_projection && !settings.wanted[at] ? mx::Shape{0} : primals[at].shape());
    dtypes.push_back(primals[at].dtype());
  }
  const Extra extra = extra_of(settings_, is_residual_wider(primals, settings_));
  for (const int input :
       {extra.conv_bias < 0 ? -1 : settings_.conv_bias, extra.wide_residual < 0 ? -1 : settings_.residual}) {
    if (input >= 0) {
      shapes.push_back(primals[static_cast<size_t>(input)].shape());
      dtypes.push_back(primals[static_cast<size_t>(input)].dtype());
    }
  }
  const std::vector<mx::array> gradients = mx::array::make_arrays(
      std::move(shapes), dtypes, std::make_shared<TrainingBlockGradient>(stream(), settings), inputs);
  std::vector<mx::array> wanted;
  for (const int i : argnums) {
    if (i < kConvState) {
      wanted.push_back(gradients[static_cast<size_t>(i)]);
    } else if (i == settings_.conv_bias) {
      wanted.push_back(gradients[static_cast<size_t>(extra.conv_bias)]);
    } else if (i == settings_.residual) {
      wanted.push_back(gradients[static_cast<size_t>(extra.wide_residual < 0 ? kX : extra.wide_residual)]);
    } else {
      wanted.push_back(mx::zeros_like(primals[static_cast<size_t>(i)], stream()));
    }
  }
  return wanted;
}

void TrainingBlockGradient::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  mx::cpu::CommandEncoder& encoder = mx::cpu::get_command_encoder(stream());
  const Settings& settings = settings_.block;
  for (mx::array& out : outputs) {
    allocate(out);
    encoder.set_output_array(out);
  }
  Arrays a(inputs, settings, encoder);
  const auto kept = [&](Output output) -> const mx::array& {
    const auto place = std::find(kKept.begin(), kKept.end(), output) - kKept.begin();
    return inputs[static_cast<size_t>(settings.inputs + place)];
  };
  // They are read, not written.
  const auto memory = [&](Output output) { return const_cast<void*>(kept(output).data<void>()); };
  a.place({.normed = memory(kNormed),
           .xz = memory(kXz),
           .conv = memory(kConv),
           .dt_B_C = memory(kDtBC),
           .delta = memory(kDelta),
           .gated = memory(kGated),
           .states = static_cast<float*>(memory(kStates))});
  const mx::array gy = row_contiguous(inputs[inputs.size() - 2], encoder);
  const mx::array gsum = row_contiguous(inputs.back(), encoder);
  const mx::array& sum = kept(kSum);
  const auto to = [&](int i) { return i < 0 ? nullptr : outputs[static_cast<size_t>(i)].data<void>(); };
  const auto weight = [&](Input i) { return settings_.wanted[i] ? to(i) : nullptr; };
  const Extra extra = extra_of(settings, is_residual_wider(inputs, settings));
  const auto job = std::make_shared<BackwardJob>(
      BackwardJob{.arrays = a,
                  .products = ProductsAtOnce(a.batch, a.length, std::max({2 * a.inner, a.projected(), a.width})),
                  .gy = a.matrix(gy.data<void>(), a.width),
                  .gsum = cpu::rows_of(gsum),
                  .sum = cpu::rows_of(sum),
                  .sum_element = cpu::element_of(sum),
                  .results = {.x = to(kX),
                              .norm = to(kNorm),
                              .in_proj = weight(kInProj),
                              .conv_weight = to(kConvWeight),
                              .conv_bias = to(extra.conv_bias),
                              .x_proj = weight(kXProj),
                              .dt_proj = weight(kDtProj),
                              .D = to(kD),
                              .dt_bias = to(kDtBias),
                              .out_proj = weight(kOutProj),
                              .A = static_cast<float*>(to(kA)),
                              .wide_residual = static_cast<float*>(to(extra.wide_residual))}});
  Workspace::instance().reserve(job->lay_out(nullptr).first);
  encoder.dispatch([job] { job->run(); });
}

}  // namespace mamba::ops::training_block_detail
