#include "table.h"

#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>

namespace mamba::gpu_report {

namespace mx = mlx::core;

mx::array normal(const mx::Shape& shape, uint64_t seed, float scale, float mean, mx::Dtype dtype) {
  const mx::Device cpu = mx::Device::cpu;
  // Not evaluated before a comparison wants it.
  return mx::astype(mx::random::normal(shape, mx::float32, mean, scale, mx::random::key(seed), cpu), dtype, cpu);
}

const char* name_of(mx::Dtype dtype) {
  return dtype == mx::bfloat16 ? "bfloat16" : dtype == mx::float16 ? "float16" : "float32";
}

namespace {

// Values, then gradients of the sum of outputs times fixed random numbers.
Arrays values_and_gradients(const Function& f, const Arrays& in, mx::Device device) {
  Arrays cotangents;
  const auto on_device = [&](const Arrays& values) { return f(values, device); };
  Arrays outputs = on_device(in);
  mx::eval(outputs);
  uint64_t seed = 99;
  for (const mx::array& out : outputs) {
    cotangents.push_back(normal(out.shape(), ++seed, 1.0f, 0.0f, out.dtype()));
  }
  auto [all, gradients] = mx::vjp(on_device, in, cotangents);
  all.insert(all.end(), gradients.begin(), gradients.end());
  mx::eval(all);
  // Values without gradients may come from other kernels.
  all.insert(all.end(), outputs.begin(), outputs.end());
  return all;
}

// The largest difference, relative to the number or the array's root mean square.
double error_of(const mx::array& got, const mx::array& want) {
  const mx::Device cpu = mx::Device::cpu;
  if (want.size() == 0) {
    return 0;
  }
  const mx::array w = mx::astype(want, mx::float32, cpu);
  const mx::array g = mx::astype(got, mx::float32, cpu);
  const mx::array rms = mx::sqrt(mx::mean(mx::square(w, cpu), cpu), cpu);
  const mx::array scale = mx::add(mx::maximum(mx::abs(w, cpu), rms, cpu), mx::array(1e-20f), cpu);
  mx::array error = mx::max(mx::divide(mx::abs(mx::subtract(g, w, cpu), cpu), scale, cpu), cpu);
  const double value = error.item<float>();
  return std::isfinite(value) ? value : INFINITY;
}

double worst_error(const Arrays& got, const Arrays& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, error_of(got[i], want[i]));
  }
  return worst;
}

// How much of what it may be off `got` is.
double share_of_bound(const Arrays& got, const Arrays& beside, const Arrays& exact) {
  double worst = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    worst = std::max(worst, error_of(got[i], exact[i]) / (2 * error_of(beside[i], exact[i]) + 0x1p-9));
  }
  return worst;
}

}  // namespace

void Table::add(const std::string& name, double bound, const Function& f, const Arrays& in) {
  compare(name, bound, [&](mx::Device device) {
    mx::eval(in);
    return values_and_gradients(f, in, device);
  });
}

void Table::add_values(const std::string& name, double bound, const Function& f, const Arrays& in) {
  compare(name, bound, [&](mx::Device device) {
    mx::eval(in);
    Arrays out = f(in, device);
    mx::eval(out);
    return out;
  });
}

void Table::add_beside(const std::string& name, const Function& f, const std::function<Arrays()>& exact) {
  const auto run = [&](mx::Device device) {
    Arrays out = f({}, device);
    mx::eval(out);
    return out;
  };
  compare(name, 1.0, run, exact);
}

void Table::compare(const std::string& name, double bound, const std::function<Arrays(mx::Device)>& run,
                    const std::function<Arrays()>& exact) {
  if (name.find(filter_) == std::string::npos) {
    return;
  }
  Json entry = {{"bound", bound}};
  bool ok = false;
  try {
    const Arrays want = run(mx::Device::cpu);
    const Arrays got = run(mx::Device::gpu);
    const Arrays again = run(mx::Device::gpu);
    const double error = exact ? share_of_bound(got, want, exact()) : worst_error(got, want);
    entry["error"] = std::isfinite(error) ? Json(error) : Json("not finite");
    entry["same_bits_again"] = worst_error(again, got) == 0;
    ok = error <= bound;
  } catch (const std::exception& failure) {
    entry["failure"] = std::string(failure.what()).substr(0, 2000);
  }
  entry["ok"] = ok;
  all_ok_ = all_ok_ && ok;
  report("equality", name, std::move(entry));
}

}  // namespace mamba::gpu_report
