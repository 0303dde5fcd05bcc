#include "apps/mlx-mamba/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>
#include <mutex>

#include "mamba/base/error.h"
#include "mamba/base/warning.h"

namespace mamba::cli {
namespace {

constexpr unsigned kGraceSeconds = 2;

// Read and written by signal handlers.
volatile std::sig_atomic_t received_signal = 0;
volatile std::sig_atomic_t open_line = 0;

const char* volatile graceful_notice = nullptr;  // of the GracefulStop that lives

std::mutex error_mutex;
bool bar_shown = false;  // guarded by error_mutex

void on_alarm(int) {
  if (open_line != 0) {
    [[maybe_unused]] const ssize_t ignored = ::write(STDOUT_FILENO, "\n", 1);
  }
  _exit(128 + received_signal);
}

void on_signal(int signal) {
  received_signal = signal;
  if (const char* notice = graceful_notice; notice != nullptr) {
    [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, notice, std::strlen(notice));
    return;
  }
  ::alarm(kGraceSeconds);
}

void handle(int signal, void (*handler)(int), int flags) {
  struct sigaction old = {};
  ::sigaction(signal, nullptr, &old);
  if (old.sa_handler == SIG_IGN) {  // started with nohup or in the background: stays so
    return;
  }
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  ::sigaction(signal, &action, nullptr);
}

// All of `bytes`, whatever write() takes at a time. False on failure, with errno.
bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

size_t terminal_width() {
  winsize size = {};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string amount(int64_t count, const char* unit) {
  if (std::strcmp(unit, "B") != 0) {
    return fmt::format("{} {}", count, unit);
  }
  if (count < 1'000'000) {
    return fmt::format("{:.1f} kB", static_cast<double>(count) / 1e3);
  }
  return count < 1'000'000'000 ? fmt::format("{:.1f} MB", static_cast<double>(count) / 1e6)
                               : fmt::format("{:.2f} GB", static_cast<double>(count) / 1e9);
}

class Reporter {
 public:
  void operator()(const Progress& progress) {
    check_interrupted();
    if (progress.what.empty()) {  // only asks whether to go on
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (progress.what != what_) {
      what_ = progress.what;
      first_done_ = progress.done;
      start_ = last_line_ = now;
    }
    if (terminal_) {
      draw(progress, now);
    } else if (progress.finished) {
      note(fmt::format("{}: {}", what_, amount(progress.done, progress.unit)));
    } else if (now - last_line_ >= kLineInterval) {
      last_line_ = now;
      note(progress.total > 0 ? fmt::format("{}: {} of {}", what_, amount(progress.done, progress.unit),
                                            amount(progress.total, progress.unit))
                              : fmt::format("{}: {} so far", what_, amount(progress.done, progress.unit)));
    }
  }

 private:
  void draw(const Progress& progress, std::chrono::steady_clock::time_point now) {
    std::string line = what_ + "  " + amount(progress.done, progress.unit);
    if (progress.total > 0) {
      const auto share = std::clamp(static_cast<double>(progress.done) / static_cast<double>(progress.total), 0.0, 1.0);
      const auto filled = static_cast<size_t>(share * kBar);
      line =
          fmt::format("{}  [{}{}] {:3.0f}%  {} of {}", what_, std::string(filled, '#'), std::string(kBar - filled, '.'),
                      share * 100, amount(progress.done, progress.unit), amount(progress.total, progress.unit));
    }
    const double seconds = std::chrono::duration<double>(now - start_).count();
    if (seconds > 0.5 && std::strcmp(progress.unit, "B") == 0) {
      line += fmt::format(
          "  {}/s", amount(static_cast<int64_t>(static_cast<double>(progress.done - first_done_) / seconds), "B"));
    }
    const std::lock_guard<std::mutex> lock(error_mutex);
    bar_shown = !progress.finished;
    write_all(STDERR_FILENO, "\r\x1b[K" + line.substr(0, terminal_width() - 1) + (progress.finished ? "\n" : ""));
  }

  static constexpr size_t kBar = 24;
  static constexpr std::chrono::seconds kLineInterval{10};

  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  std::string what_;
  int64_t first_done_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_line_;
};

}  // namespace

void start_console() {
  std::signal(SIGPIPE, SIG_IGN);  // write() reports both instead
  std::signal(SIGXFSZ, SIG_IGN);
  handle(SIGINT, on_signal, SA_RESTART | static_cast<int>(SA_RESETHAND));
  handle(SIGTERM, on_signal, SA_RESTART | static_cast<int>(SA_RESETHAND));
  handle(SIGALRM, on_alarm, 0);
  set_warning_handler([](const std::string& message) { note("mlx-mamba: warning: " + message); });
}

void put(std::string_view bytes) {
  if (bytes.empty()) {
    return;
  }
  if (!write_all(STDOUT_FILENO, bytes)) {
    open_line = 0;
    if (errno == EPIPE) {
      throw BrokenPipe{};
    }
    throw Error(fmt::format("standard output: {}", std::strerror(errno)));
  }
  open_line = bytes.back() == '\n' ? 0 : 1;
}

void end_line() noexcept {
  if (open_line != 0) {
    open_line = 0;
    write_all(STDOUT_FILENO, "\n");
  }
}

void note(std::string_view line) noexcept {
  const std::lock_guard<std::mutex> lock(error_mutex);
  std::string out = bar_shown ? "\r\x1b[K" : "";
  bar_shown = false;
  for (const char c : line) {  // one line, and no escape sequences, whatever a file or a server said
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  out += '\n';
  write_all(STDERR_FILENO, out);
}

void note_text(std::string_view text) noexcept {
  write_all(STDERR_FILENO, text);
}

void check_interrupted() {
  if (received_signal != 0) {
    throw Interrupted{received_signal};
  }
}

GracefulStop::GracefulStop(const char* notice) {
  graceful_notice = notice;
}

GracefulStop::~GracefulStop() {
  graceful_notice = nullptr;
}

bool GracefulStop::requested() const {
  return received_signal != 0;
}

ProgressFn progress_reporter() {
  return [reporter = std::make_shared<Reporter>()](const Progress& progress) { (*reporter)(progress); };
}

}  // namespace mamba::cli
