// A child process whose output lands in files: it can be waited for, watched and killed.
#pragma once

#include <fcntl.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill is POSIX
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "mamba/base/error.h"
#include "mamba/base/file.h"

#ifdef __APPLE__
extern char** environ;
#endif

namespace mamba::hub::testing {

class Process {
 public:
  // `environment` ("NAME=value") is added to ours. Output and errors go to <log>.out and <log>.err.
  Process(std::vector<std::string> arguments, const std::vector<std::string>& environment,
          const std::filesystem::path& log)
      : log_(log.string()) {
    std::vector<std::string> all = environment;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      all.emplace_back(*entry);  // the first of a name counts
    }
    std::vector<char*> argv = pointers(arguments);
    std::vector<char*> envp = pointers(all);
    const std::string out = log_ + ".out";
    const std::string err = log_ + ".err";
    pid_ = ::fork();
    check(pid_ >= 0, "fork failed");
    if (pid_ == 0) {  // only async-signal-safe calls: the parent has threads
      const int out_fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      const int err_fd = ::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(out_fd, STDOUT_FILENO);
      ::dup2(err_fd, STDERR_FILENO);
      environ = envp.data();
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
  }
  ~Process() {
    if (pid_ > 0) {
      kill();
    }
  }
  Process(Process&& other) noexcept : pid_(std::exchange(other.pid_, -1)), log_(std::move(other.log_)) {}
  Process& operator=(Process&&) = delete;

  int wait() {  // the exit code; 128 + signal
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    wait();
  }

  std::string output() const { return read_file(log_ + ".out"); }
  std::string errors() const { return read_file(log_ + ".err"); }

  // False when the text does not appear among the errors within 20 s.
  bool wait_for(const std::string& text) const {
    for (int i = 0; i < 2000; ++i) {
      std::error_code error;
      if (std::filesystem::exists(log_ + ".err", error) && errors().find(text) != std::string::npos) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

 private:
  static std::vector<char*> pointers(std::vector<std::string>& strings) {
    std::vector<char*> out;
    for (std::string& text : strings) {
      out.push_back(text.data());
    }
    out.push_back(nullptr);
    return out;
  }

  pid_t pid_ = -1;
  std::string log_;
};

}  // namespace mamba::hub::testing
