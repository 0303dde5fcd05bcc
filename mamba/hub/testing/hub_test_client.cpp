// Fetches one file with the environment's options and prints its path: what a test runs several times at once, kills,
// or starves of disk. Prints "started" to standard error with the first byte.
#include <signal.h>  // NOLINT(modernize-deprecated-headers): SIGXFSZ is POSIX
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "mamba/hub/hub.h"

// hub_test_client REPO FILE [REVISION [LARGEST_FILE_IN_BYTES]]
int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::fprintf(stderr, "usage: hub_test_client REPO FILE [REVISION [LARGEST_FILE_IN_BYTES]]\n");
    return 2;
  }
  if (argc == 5) {
    const rlimit limit{.rlim_cur = std::strtoull(argv[4], nullptr, 10), .rlim_max = RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, SIG_IGN);
  }
  try {
    mamba::hub::Options options = mamba::hub::Options::from_environment();
    options.retry_delay = std::chrono::milliseconds(10);
    bool started = false;
    const auto path =
        mamba::hub::download(argv[1], argv[2], argc > 3 ? argv[3] : "main", options, [&](const mamba::Progress& p) {
          if (!started && p.done > 0) {
            started = true;
            std::fprintf(stderr, "started\n");
          }
          if (p.what.find("waiting") != std::string::npos && !p.finished) {
            std::fprintf(stderr, "%s\n", p.what.c_str());
          }
        });
    std::printf("%s\n", path.c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
  return 0;
}
