// A hub on loopback for tests of programs: prints its address as a line and serves until its standard input ends or a
// signal comes.
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "mamba/base/error.h"
#include "mamba/hub/testing/hub_server.h"

namespace {

using mamba::hub::testing::Faults;

// "cut=1000", "stall=0", "status=503:2", "corrupt", ...
void add_fault(Faults& faults, const std::string& text) {
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const std::string value = equals == std::string::npos ? "" : text.substr(equals + 1);
  const size_t colon = value.find(':');
  const auto times = [&](int fallback) {
    return colon == std::string::npos ? fallback : std::stoi(value.substr(colon + 1));
  };
  if (name == "cut") {
    faults.cut_after = std::stoll(value);
    faults.cuts = times(faults.cuts);
  } else if (name == "stall") {
    faults.stall_after = std::stoll(value);
    faults.stalls = times(faults.stalls);
  } else if (name == "status") {
    faults.status = std::stoi(value);
    faults.unavailable = times(1'000'000);
  } else if (name == "retry-after") {
    faults.retry_after = value;
  } else if (name == "speed") {
    faults.bytes_per_second = std::stoll(value);
  } else if (name == "corrupt") {
    faults.corrupt = true;
  } else if (name == "ignore-range") {
    faults.ignore_range = true;
  } else if (name == "gated") {
    faults.gated = true;
  } else if (name == "lfs-elsewhere") {
    faults.lfs_elsewhere = true;
  } else {
    throw mamba::UsageError("unknown fault: " + text);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string root;
  std::string token;
  std::vector<std::string> fault_texts;
  CLI::App app{"A hub on 127.0.0.1 for tests"};
  app.add_option("--root", root, "Folder of <owner>/<name>/<files>")->required()->check(CLI::ExistingDirectory);
  app.add_option("--token", token, "Answer 401 without this token");
  app.add_option("--fault", fault_texts,
                 "cut=BYTES[:TIMES] stall=BYTES[:TIMES] status=CODE[:TIMES] retry-after=SECONDS speed=BYTES corrupt "
                 "ignore-range gated lfs-elsewhere");
  CLI11_PARSE(app, argc, argv);
  try {
    Faults faults{.token = token};
    for (const std::string& text : fault_texts) {
      add_fault(faults, text);
    }
    mamba::hub::testing::HubServer server;
    server.put_tree(root);
    server.set_faults(faults);
    std::printf("%s\n", server.endpoint().c_str());
    std::fflush(stdout);
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    char buffer[256];
    while (::poll(&input, 1, -1) >= 0 && ::read(STDIN_FILENO, buffer, sizeof buffer) > 0) {
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hub_test_server: %s\n", e.what());
    return 1;
  }
  return 0;
}
