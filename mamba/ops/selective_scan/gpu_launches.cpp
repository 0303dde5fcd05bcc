#include "mamba/ops/selective_scan/gpu_launches.h"

#include <algorithm>
#include <string>
#include <string_view>

namespace mamba::embedded {
std::string_view gpu_scan_begin();
std::string_view gpu_scan_forward();
std::string_view gpu_scan_local();
std::string_view gpu_scan_carry();
std::string_view gpu_scan_backward_begin();
std::string_view gpu_scan_backward();
std::string_view gpu_scan_sum();
}  // namespace mamba::embedded

namespace mamba::ops::scan {

namespace mx = mlx::core;
using gpu::Constants;
using gpu::Grid;
using gpu::Kernel;

namespace {

// Registers of a thread, where the compiler's own choice leaves room for fewer groups than are faster, or is too small;
// 0 is its own choice.
int forward_registers(const Shape& shape) {
  if (shape == kWhole) return 160;
  if (shape == kPairs) return 144;
  if (shape == kTwoLanes) return 128;
  return shape == kFourLanes ? 96 : 0;
}

int local_registers(const Shape& shape) {
  if (shape == kPairs) return 144;
  if (shape == kTwoLanes) return 96;
  return shape == kFourLanes ? 80 : 0;
}

// With four lanes to a channel or short tiles, three groups of 128 threads to a multiprocessor; the compiler alone
// takes 255 registers, for two. Two lanes to a channel need those.
int backward_registers(const Shape& shape) {
  return shape == kFourLanes || shape == kSixSimds || shape == kShortTiles ? 168 : 0;
}

// Groups that a large GPU has room for at once.
int room_of(const Shape& shape, int registers) {
  constexpr int kMultiprocessors = 132;
  constexpr int kRegisters = 65536;  // of each
  constexpr int kMost = 255;
  return kMultiprocessors * (kRegisters / (shape.threads * (registers > 0 ? registers : kMost)));
}

const Kernel& forward_kernel(const Shape& shape) {
  const auto make = [](int registers) {
    return Kernel("mamba_scan_forward", gpu::joined({embedded::gpu_scan_begin(), embedded::gpu_scan_forward()}),
                  {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "first", "spans", "resets", "first_done"},
                  {"y", "state", "kept"}, registers);
  };
  static const Kernel whole = make(forward_registers(kWhole));
  static const Kernel pair = make(forward_registers(kPairs));
  static const Kernel two = make(forward_registers(kTwoLanes));
  static const Kernel four = make(forward_registers(kFourLanes));
  static const Kernel others = make(0);
  if (shape == kWhole) return whole;
  if (shape == kPairs) return pair;
  if (shape == kTwoLanes) return two;
  return shape == kFourLanes ? four : others;
}

const Kernel& local_kernel(const Shape& shape) {
  const auto make = [](int registers) {
    return Kernel("mamba_scan_local", gpu::joined({embedded::gpu_scan_begin(), embedded::gpu_scan_local()}),
                  {"x", "delta", "A", "W", "z", "delta_bias", "spans", "resets"}, {"carried", "total"}, registers);
  };
  static const Kernel pair = make(local_registers(kPairs));
  static const Kernel two = make(local_registers(kTwoLanes));
  static const Kernel four = make(local_registers(kFourLanes));
  static const Kernel others = make(0);
  if (shape == kPairs) return pair;
  if (shape == kTwoLanes) return two;
  return shape == kFourLanes ? four : others;
}

const Kernel& carry_kernel() {
  static const Kernel kernel("mamba_scan_carry", embedded::gpu_scan_carry(),
                             {"carried", "total", "A", "first", "after"}, {"done"});
  return kernel;
}

const Kernel& backward_kernel(const Shape& shape) {
  const auto make = [](int registers) {
    return Kernel(
        "mamba_scan_backward", gpu::joined({embedded::gpu_scan_backward_begin(), embedded::gpu_scan_backward()}),
        {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "spans", "resets", "gy", "kept", "last", "done"},
        {"gu", "gdelta", "gz", "spare", "more", "part_D", "gfirst", "y"}, registers);
  };
  static const Kernel three = make(backward_registers(kFourLanes));
  static const Kernel others = make(0);
  return backward_registers(shape) > 0 ? three : others;
}

const Kernel& sum_kernel() {
  static const Kernel kernel("mamba_scan_sum", embedded::gpu_scan_sum(), {"kept", "ends", "more", "part_D", "u"},
                             {"sum_A", "sum_D", "sum_bias", "sum_BC"});
  return kernel;
}

// The states that enter the chunks or, backwards, the gradients of those that leave them: in the first cells of chunks,
// where there are cells for all segments, or else in the only ones. Ready only when `after` is.
Kept carries(const Plan& plan, const std::vector<mx::array>& in, const mx::array& x, const mx::array& first,
             bool has_first, bool reverse, bool of_segments, const mx::array& after) {
  const Shape& shape = plan.local_shape;
  const int chunks = reverse ? plan.backward_chunks : plan.chunks;
  const int others = chunks - 1;
  const std::vector<mx::array> local = local_kernel(shape)(
      {x, in[kDelta], in[kA], in[reverse ? kC : kB], in[kZ], in[kDeltaBias], in[kSpans], in[kResets]},
      {plan.cells(of_segments ? plan.segments() : chunks), {plan.batch, others, plan.channels}},
      {mx::float32, mx::float32}, plan.grid(shape, others),
      plan.constants(shape, x.dtype(), {{"kIsLocal", true}, {"kReverse", reverse}, {"kSparse", !of_segments}}),
      plan.stream);
  constexpr int kThreads = 128;
  const int block = plan.shape.channels();
  const int numbers = plan.shape.blocks(plan.channels) * plan.states * block;
  return {local[0],
          carry_kernel()({local[0], local[1], in[kA], first, after}, {{1}}, {mx::float32},
                         {{divide_up(numbers, kThreads), plan.batch, 1}, kThreads},
                         {{"kThreads", kThreads}, {"kBlock", block}, {"kHasState", has_first}, {"kReverse", reverse}},
                         plan.stream)[0]};
}

}  // namespace

Constants Plan::constants(const Shape& of, mx::Dtype dtype, Constants more) const {
  more.insert(more.end(), {{"T", dtype},
                           {"kLanes", of.lanes},
                           {"kM", of.per_lane},
                           {"kThreads", of.threads},
                           {"kSegment", of.segment},
                           {"kEach", of.each},
                           {"kSteps", of.steps},
                           {"kBlock", shape.channels()},
                           {"kSoftplus", softplus},
                           {"kHasBias", has_bias},
                           {"kHasZ", has_z},
                           {"kHasSpans", has_spans},
                           {"kHasResets", has_resets}});
  return more;
}

Plan plan_of(const SelectiveScanInputs& in, Dealing dealing, const mx::Stream& stream) {
  const int batch = in.u.shape(0);
  const int length = in.u.ndim() == 3 ? in.u.shape(1) : 1;
  const int channels = in.u.shape(-1);
  const int states = in.A.shape(1);
  const Shape shape = shape_of(batch, length, channels, states, dealing);
  const int chunks = dealing == Dealing::kWholeSequences ? 1 : chunks_of(batch, length, channels, shape);
  const int bytes = static_cast<int>(in.u.itemsize());
  const Shape forward_shape = forward_shape_of(shape, batch, channels, chunks, bytes, dealing);
  const Shape backward_shape = backward_shape_of(shape, chunks);
  const auto even = [&](const Shape& of, int registers) {
    return even_chunks(length, of, chunks, batch * of.blocks(channels), room_of(of, registers));
  };
  return {.shape = backward_shape,
          .forward_shape = forward_shape,
          .local_shape = local_shape_of(forward_shape),
          .chunks = even(forward_shape, forward_registers(forward_shape)),
          .backward_chunks = even(backward_shape, backward_registers(backward_shape)),
          .batch = batch,
          .length = length,
          .channels = channels,
          .states = states,
          .has_D = in.D.has_value(),
          .has_z = in.z.has_value(),
          .has_bias = in.delta_bias.has_value(),
          .has_state = in.initial_state.has_value(),
          .has_spans = in.spans.has_value(),
          .has_resets = in.resets.has_value(),
          .softplus = in.delta_softplus,
          .stream = stream};
}

Forward forward(const Plan& plan, const std::vector<mx::array>& in, bool keep) {
  std::vector<mx::array> inputs = in;
  inputs.push_back(in[kA]);  // a stand-in
  const bool is_chunked = plan.chunks > 1;
  if (is_chunked) {
    const Kept entering = carries(plan, in, in[kU], in[kState], plan.has_state, false, keep, in[kA]);
    inputs[kState] = entering.cells;
    inputs.back() = entering.done;
  }
  const Shape& shape = plan.forward_shape;
  const std::vector<mx::array> out =
      forward_kernel(shape)(inputs,
                            {in[kU].shape(),
                             {plan.batch, plan.channels, plan.states},
                             keep && !is_chunked ? plan.cells(plan.segments()) : mx::Shape{1}},
                            {in[kU].dtype(), mx::float32, mx::float32}, plan.grid(shape, plan.chunks),
                            plan.constants(shape, in[kU].dtype(),
                                           {{"kIsLocal", false},
                                            {"kReverse", false},
                                            {"kSparse", !keep},
                                            {"kHasD", plan.has_D},
                                            {"kHasState", plan.has_state},
                                            {"kChunked", is_chunked},
                                            {"kKeep", keep}}),
                            plan.stream);
  return {out[0], out[1], {is_chunked ? inputs[kState] : out[2], out[2]}};
}

Backward backward(const Plan& plan, const std::vector<mx::array>& in, const mx::array& gy,
                  const std::optional<mx::array>& gstate, const Kept& kept, bool of_y) {
  const mx::Stream& s = plan.stream;
  const bool is_chunked = plan.backward_chunks > 1;
  const mx::array& end = gstate ? *gstate : in[kA];  // a stand-in
  const Kept last = is_chunked ? carries(plan, in, gy, end, gstate.has_value(), true, false, kept.done)
                               : Kept{.cells = end, .done = kept.done};
  const mx::Dtype dtype = in[kU].dtype();
  const int rows = plan.batch * plan.backward_chunks;
  const int columns = 2 * plan.states;
  // Of a segment's shares, those that have no room in a cell.
  const int more = std::max(plan.shape.segment - plan.shape.channels() / 2, 0);
  const mx::Shape none = {1};
  const std::vector<mx::array> out = backward_kernel(plan.shape)(
      {in[kU], in[kDelta], in[kA], in[kB], in[kC], in[kD], in[kZ], in[kDeltaBias], in[kSpans], in[kResets], gy,
       kept.cells, last.cells, last.done},
      {in[kU].shape(),
       in[kU].shape(),
       plan.has_z ? in[kU].shape() : none,
       is_chunked ? none : plan.cells(1),
       more > 0 ? mx::Shape{plan.batch, plan.segments(), plan.shape.blocks(plan.channels), more, columns} : none,
       {rows, 2, plan.channels},
       plan.has_state ? mx::Shape{plan.batch, plan.channels, plan.states} : none,
       of_y ? in[kU].shape() : none},
      {dtype, dtype, dtype, mx::float32, mx::float32, mx::float32, mx::float32, dtype},
      plan.grid(plan.shape, plan.backward_chunks),
      plan.constants(plan.shape, dtype,
                     {{"kHasD", plan.has_D},
                      {"kHasState", plan.has_state},
                      {"kChunked", is_chunked},
                      {"kHasLast", is_chunked || gstate},
                      {"kGiveY", of_y}}),
      s);
  const mx::array& ends = is_chunked ? last.cells : out[3];
  constexpr int kThreads = 256;
  const int groups = divide_up(plan.shape.blocks(plan.channels) * plan.shape.channels() * plan.states, kThreads) +
                     divide_up(2 * plan.channels, kThreads) +
                     static_cast<int>((int64_t{plan.batch} * plan.length * columns + kThreads - 1) / kThreads);
  const mx::Dtype D_dtype = in[kD].dtype();
  const mx::Dtype bias_dtype = in[kDeltaBias].dtype();
  const std::vector<mx::array> sums =
      sum_kernel()({kept.cells, ends, more > 0 ? out[4] : kept.cells, out[5], in[kU]},
                   {in[kA].shape(), {plan.channels}, {plan.channels}, {plan.batch, plan.length, columns}},
                   {mx::float32, D_dtype, bias_dtype, dtype}, {{groups, 1, 1}, kThreads},
                   {{"T", dtype},
                    {"OfD", D_dtype},
                    {"OfBias", bias_dtype},
                    {"kThreads", kThreads},
                    {"kBlock", plan.shape.channels()},
                    {"kSegment", plan.shape.segment}},
                   s);
  return {.u = out[0],
          .delta = out[1],
          .z = out[2],
          .BC = sums[3],
          .A = sums[0],
          .D = sums[1],
          .bias = sums[2],
          .first = out[6],
          .y = out[7]};
}

}  // namespace mamba::ops::scan
