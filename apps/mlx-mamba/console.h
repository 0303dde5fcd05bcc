// Standard output and error, and the signals that end the program early.
#pragma once

#include <string>
#include <string_view>

#include "mamba/base/progress.h"

namespace mamba::cli {

// The reader of standard output has gone, as `head` does: nothing is left to do, and nobody to tell.
struct BrokenPipe {};

// SIGINT or SIGTERM came.
struct Interrupted {
  int signal;
};

// Sets up signals, warnings and where progress goes. Called once, first of all.
void start_console();

// Writes `bytes` to standard output at once. Throws BrokenPipe, or Error on a full disk and the like.
void put(std::string_view bytes);

// Ends a line that put() left open, as well as it can. For the way out.
void end_line() noexcept;

// Writes a line to standard error, above a progress bar if there is one.
void note(std::string_view line) noexcept;

// Writes text of several lines to standard error, as it is.
void note_text(std::string_view text) noexcept;

// Throws Interrupted once a signal came. Long work calls this now and then: two seconds after a signal, or at the
// second one, the process ends anyway.
void check_interrupted();

// While one lives, the first signal ends nothing: requested() tells of it, and the work comes to a good end by itself.
// A second signal ends the process at once. One at a time.
class GracefulStop {
 public:
  // `notice` is written to standard error when the signal comes; must outlive this.
  explicit GracefulStop(const char* notice);
  ~GracefulStop();
  GracefulStop(const GracefulStop&) = delete;
  GracefulStop& operator=(const GracefulStop&) = delete;

  bool requested() const;
};

// A bar where standard error is a terminal, else a line now and then. Cancels work when a signal came.
ProgressFn progress_reporter();

}  // namespace mamba::cli
