#include "mamba/base/warning.h"

#include <mutex>
#include <set>
#include <utility>

namespace mamba {
namespace {

struct Warnings {
  std::mutex mutex;
  std::set<std::string> seen;
  WarningHandler handler;
};

Warnings& warnings() {
  static Warnings* const instance = new Warnings;  // outlives every thread
  return *instance;
}

}  // namespace

void set_warning_handler(WarningHandler handler) {
  const std::lock_guard<std::mutex> lock(warnings().mutex);
  warnings().handler = std::move(handler);
}

void warn_once(const std::string& message) {
  WarningHandler handler;
  {
    const std::lock_guard<std::mutex> lock(warnings().mutex);
    if (!warnings().handler || !warnings().seen.insert(message).second) {
      return;
    }
    handler = warnings().handler;
  }
  handler(message);
}

}  // namespace mamba
