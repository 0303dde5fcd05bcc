#include "mamba/train/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace mamba::train {

namespace {

struct Point {
  double x;
  double y;
};
using Series = std::vector<Point>;

constexpr double kWidth = 860;
constexpr double kHeight = 280;
constexpr double kLeft = 64;
constexpr double kBottom = 28;
constexpr double kTop = 10;
constexpr double kRight = 12;
constexpr size_t kMostPoints = 1000;  // of a curve: more than one for a pixel shows nothing

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Series series_of(const std::vector<Json>& metrics, const char* name) {
  Series out;
  for (const Json& line : metrics) {
    const auto found = line.find(name);
    if (found != line.end() && found->is_number() && line.contains("step") && line["step"].is_number()) {
      out.push_back({line["step"].get<double>() + 1, found->get<double>()});
    }
  }
  return out;
}

// Means of equal runs of points.
Series thinned(const Series& series) {
  if (series.size() <= kMostPoints) {
    return series;
  }
  Series out;
  for (size_t i = 0; i < kMostPoints; ++i) {
    const size_t begin = i * series.size() / kMostPoints;
    const size_t end = (i + 1) * series.size() / kMostPoints;
    Point mean{0, 0};
    for (size_t j = begin; j < end; ++j) {
      mean.x += series[j].x;
      mean.y += series[j].y;
    }
    const auto count = static_cast<double>(end - begin);
    out.push_back({mean.x / count, mean.y / count});
  }
  return out;
}

// A round distance between about five lines of a grid.
double grid_step(double span) {
  const double rough = span / 5;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power) {
      return factor * power;
    }
  }
  return 10 * power;
}

struct Curve {
  std::string name;
  std::string colour;
  Series points;
  bool dots = false;
};

std::string chart(const std::string& title, std::vector<Curve> curves) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  double last = 1;
  for (Curve& curve : curves) {
    curve.points = thinned(curve.points);
    for (const Point& p : curve.points) {
      low = std::min(low, p.y);
      high = std::max(high, p.y);
      last = std::max(last, p.x);
    }
  }
  if (!(low <= high)) {
    return "";
  }
  const double margin = high > low ? (high - low) * 0.05 : std::max(1e-9, std::abs(high) * 0.05);
  low -= margin;
  high += margin;
  const auto x = [&](double value) { return kLeft + (kWidth - kLeft - kRight) * value / last; };
  const auto y = [&](double value) { return kTop + (kHeight - kTop - kBottom) * (high - value) / (high - low); };

  std::string out = fmt::format("<figure><figcaption>{}", escaped(title));
  for (const Curve& curve : curves) {
    if (!curve.points.empty()) {
      out += fmt::format(" <span style=\"color:{}\">&#9632; {}</span>", curve.colour, escaped(curve.name));
    }
  }
  out += fmt::format("</figcaption><svg viewBox=\"0 0 {} {}\" role=\"img\">", kWidth, kHeight);
  const double step = grid_step(high - low);
  for (double value = std::ceil(low / step) * step; value <= high; value += step) {
    out += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:.4g}</text>",
        kLeft, kWidth - kRight, y(value), kLeft - 6, y(value) + 4, std::abs(value) < step / 1e6 ? 0.0 : value);
  }
  const double across = std::max(1.0, grid_step(last));
  for (double value = 0; value <= last; value += across) {
    out +=
        fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:.6g}</text>", x(value), kHeight - 8, value);
  }
  for (const Curve& curve : curves) {
    std::string points;
    for (const Point& p : curve.points) {
      points += fmt::format("{:.1f},{:.1f} ", x(p.x), y(p.y));
      if (curve.dots) {
        out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>", x(p.x), y(p.y), curve.colour);
      }
    }
    out += fmt::format("<polyline points=\"{}\" stroke=\"{}\"/>", points, curve.colour);
  }
  return out + "</svg></figure>\n";
}

void add_rows(const Json& value, const std::string& name, std::string& out) {
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items()) {
      add_rows(inner, name.empty() ? key : name + "." + key, out);
    }
    return;
  }
  const std::string shown = value.is_string() ? value.get<std::string>() : json_text(value);
  out += fmt::format("<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(shown));
}

std::string summary(const std::vector<Json>& metrics) {
  if (metrics.empty()) {
    return "<p>No step is done yet.</p>";
  }
  const Json& last = metrics.back();
  std::string out = fmt::format("<p><b>{}</b> steps", last.value("step", int64_t{0}) + 1);
  const auto add = [&](const char* text, const Series& series, double value) {
    if (!series.empty()) {
      out += fmt::format(" &middot; {} <b>{:.4g}</b>", text, value);
    }
  };
  const Series loss = series_of(metrics, "loss");
  add("loss", loss, loss.empty() ? 0 : loss.back().y);
  const Series held_out = series_of(metrics, "eval_loss");
  if (!held_out.empty()) {
    const auto best =
        std::min_element(held_out.begin(), held_out.end(), [](const Point& a, const Point& b) { return a.y < b.y; });
    add("best held-out loss", held_out, best->y);
    out += fmt::format(" after step {}", best->x);
  }
  const Series speed = series_of(metrics, "tokens_per_second");
  add("tokens/s", speed, speed.empty() ? 0 : speed.back().y);
  const Series memory = series_of(metrics, "peak_memory_mb");
  add("peak memory in MB", memory, memory.empty() ? 0 : memory.back().y);
  return out + "</p>\n";
}

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "figure{margin:1.5em 0}figcaption{font-weight:600}figcaption span{font-weight:400;margin-left:1em}"
    "svg{width:100%;height:auto;font-size:11px}svg line{stroke:#ddd}svg text{fill:#777}"
    "svg polyline{fill:none;stroke-width:1.5}table{border-collapse:collapse}td{padding:2px 12px 2px 0;color:#444}"
    "pre{white-space:pre-wrap;background:#f5f5f2;padding:.8em 1em;border-radius:6px}"
    "@media(prefers-color-scheme:dark){body{background:#191919;color:#ddd}td{color:#bbb}pre{background:#252525}"
    "svg line{stroke:#333}}";

}  // namespace

std::string report_html(const std::string& title, const Json& config, const std::vector<Json>& metrics,
                        const std::vector<Sample>& samples) {
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>{0}</title><style>{1}</style></head>\n<body><h1>{0}</h1>\n",
      escaped(title), kStyle);
  out += summary(metrics);
  out += chart("Loss, nats per token", {{"training", "#4a7fb5", series_of(metrics, "loss")},
                                        {"held out", "#d1603d", series_of(metrics, "eval_loss"), true}});
  out += chart("Norm of the gradients", {{"before clipping", "#7a6fa8", series_of(metrics, "grad_norm")}});
  out += chart("Learning rate", {{"", "#888888", series_of(metrics, "lr")}});
  out += chart("Speed, tokens per second", {{"", "#4f8f5b", series_of(metrics, "tokens_per_second")}});
  if (!samples.empty()) {
    out += "<h2>Samples</h2>\n";
    for (auto sample = samples.rbegin(); sample != samples.rend(); ++sample) {
      out += fmt::format("<h3>after {} steps</h3><pre><b>{}</b>{}</pre>\n", sample->step, escaped(sample->prompt),
                         escaped(sample->text));
    }
  }
  std::string rows;
  add_rows(config, "", rows);
  out += fmt::format("<h2>Settings</h2>\n<table>{}</table>\n</body></html>\n", rows);
  return out;
}

}  // namespace mamba::train
