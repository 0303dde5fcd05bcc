// Several processes, processes that die, disks that fill up, and Python's huggingface_hub on the same cache.
#include "mamba/hub/testing/process.h"

#include <sys/mount.h>

#include <thread>

#include "mamba/hub/cache.h"
#include "mamba/hub/testing/fixture.h"

namespace mamba::hub::testing {
namespace {

namespace fs = std::filesystem;
using Kind = HubError::Kind;

class ProcessTest : public HubTest {
 protected:
  std::vector<std::string> environment(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> out = more;
    for (const std::string& entry :
         {"HF_ENDPOINT=" + server_.endpoint(), "HF_HUB_CACHE=" + options_.cache_directory.string(),
          "HF_HOME=" + (directory_ / "home").string(), std::string("HF_HUB_DISABLE_XET=1"), std::string("HF_TOKEN=")}) {
      out.push_back(entry);
    }
    return out;
  }

  Process client(const std::vector<std::string>& arguments, const std::string& log,
                 const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all{MAMBA_HUB_TEST_CLIENT};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return {all, environment(more), directory_ / log};
  }

  // Runs a Python program; -1 when there is no Python with huggingface_hub (MAMBA_PEER_PYTHON names one).
  int python(const std::string& program, std::string* output, const std::vector<std::string>& more = {}) const {
    const char* named = std::getenv("MAMBA_PEER_PYTHON");
    const std::string interpreter = named != nullptr ? named : "python3";
    // A sanitizer's runtime, where there is one, is not for Python.
    Process probe({interpreter, "-c", "import huggingface_hub, filelock"}, {}, directory_ / "probe");
    if (probe.wait() != 0) {
      return -1;
    }
    Process process({interpreter, "-c", program}, environment(more), directory_ / "python");
    const int code = process.wait();
    EXPECT_EQ(code, 0) << process.errors();
    *output = process.output();
    output->erase(output->find_last_not_of('\n') + 1);
    return code;
  }

  fs::path blobs() const { return repo("models--o--n") / "blobs"; }
  std::string tag() const { return HubServer::etag_of("w.bin", weights_); }
  void put() { server_.put("o/n", {{"w.bin", weights_}, {"sub/config.json", "{}"}}); }

  const std::string weights_ = noise(2'000'003);
};

constexpr const char* kNoPython = "no Python with huggingface_hub (set MAMBA_PEER_PYTHON)";

TEST_F(ProcessTest, SeveralAtOnceFetchOnce) {
  put();
  server_.set_faults({.bytes_per_second = 8'000'000});
  std::vector<Process> processes;
  for (int i = 0; i < 6; ++i) {
    processes.push_back(client({"o/n", "w.bin"}, fmt::format("client{}", i)));
  }
  for (Process& process : processes) {
    EXPECT_EQ(process.wait(), 0) << process.errors();
    const std::string path = process.output();
    EXPECT_TRUE(read_file(path.substr(0, path.size() - 1)) == weights_);
  }
  EXPECT_EQ(server_.count("GET", "w.bin"), 1);
  EXPECT_EQ(listing(blobs()), std::vector<std::string>{tag()});
}

TEST_F(ProcessTest, ThreadsOfOneProcessFetchOnce) {
  put();
  server_.set_faults({.bytes_per_second = 8'000'000});
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { right += read_file(download("o/n", "w.bin", "main", options_)) == weights_ ? 1 : 0; });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(right, 4);
  EXPECT_EQ(server_.count("GET", "w.bin"), 1);
}

TEST_F(ProcessTest, WaitingIsToldAndCanBeCancelled) {
  put();
  const RepoCache cache(options_, "o/n");
  fs::create_directories(cache.lock(tag()).parent_path());
  auto lock = std::make_unique<FileLock>(cache.lock(tag()), nullptr);
  Process process = client({"o/n", "w.bin"}, "client");
  EXPECT_TRUE(process.wait_for("w.bin (waiting for another process)"));
  struct Cancelled {};
  EXPECT_THROW(download("o/n", "w.bin", "main", options_, [](const Progress&) { throw Cancelled(); }), Cancelled);
  EXPECT_EQ(server_.count("GET", "w.bin"), 0);
  lock.reset();
  EXPECT_EQ(process.wait(), 0) << process.errors();
}

TEST_F(ProcessTest, KilledAtAnyTime) {
  put();
  server_.set_faults({.bytes_per_second = 4'000'000});
  for (int round = 0; round < 3; ++round) {
    Process process = client({"o/n", "w.bin"}, "client");
    ASSERT_TRUE(process.wait_for("started")) << process.errors();
    std::this_thread::sleep_for(std::chrono::milliseconds(20 * round));
    process.kill();
    ASSERT_EQ(listing(blobs()), std::vector<std::string>{tag() + ".incomplete"});
    EXPECT_EQ(find_cached("o/n", "w.bin", "main", options_), std::nullopt);
    const std::string kept = read_file(blobs() / (tag() + ".incomplete"));
    EXPECT_FALSE(kept.empty());
    EXPECT_TRUE(weights_.starts_with(kept));
  }
  const auto kept = fs::file_size(blobs() / (tag() + ".incomplete"));
  server_.set_faults({});
  EXPECT_TRUE(read_file(download("o/n", "w.bin", "main", options_)) == weights_);
  EXPECT_EQ(server_.requests().back().range, fmt::format("bytes={}-", kept));
  EXPECT_EQ(listing(blobs()), std::vector<std::string>{tag()});
}

TEST_F(ProcessTest, FilesThatMayNotGrow) {
  put();
  Process process = client({"o/n", "w.bin", "main", "700000"}, "client");
  EXPECT_EQ(process.wait(), 1);
  const std::string errors = process.errors();
  const std::string partial = (blobs() / (tag() + ".incomplete")).string();
  EXPECT_NE(errors.find(partial + ": cannot be written: File too large"), std::string::npos) << errors;
  EXPECT_NE(errors.find("700000 bytes are kept: make room and run again"), std::string::npos) << errors;
  EXPECT_TRUE(read_file(download("o/n", "w.bin", "main", options_)) == weights_);
  EXPECT_EQ(server_.requests().back().range, "bytes=700000-");
}

// A small file system of its own.
class Tmpfs {
 public:
  Tmpfs(const fs::path& folder, const std::string& size) : folder_(folder) {
    fs::create_directories(folder);
#ifdef __linux__
    mounted_ = ::mount("none", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
#endif
  }
  ~Tmpfs() {
#ifdef __linux__
    if (mounted_) {
      ::umount2(folder_.c_str(), MNT_DETACH);
    }
#endif
  }
  Tmpfs(const Tmpfs&) = delete;
  Tmpfs& operator=(const Tmpfs&) = delete;
  bool mounted() const {
    return mounted_;
  }

 private:
  fs::path folder_;
  bool mounted_ = false;
};

TEST_F(ProcessTest, DisksThatAreTooSmall) {
  const Tmpfs disk(options_.cache_directory, "1m");
  if (!disk.mounted()) {
    GTEST_SKIP() << "a tmpfs cannot be mounted here";
  }
  put();
  expect_throw<Error>("2000003 more bytes are needed but the disk has",
                      [&] { download("o/n", "w.bin", "main", options_); });
  EXPECT_EQ(server_.count("GET", "w.bin"), 0);
  EXPECT_TRUE(listing(blobs()).empty());
}

TEST_F(ProcessTest, DisksThatFillUpMeanwhile) {
  const Tmpfs disk(options_.cache_directory, "3m");
  if (!disk.mounted()) {
    GTEST_SKIP() << "a tmpfs cannot be mounted here";
  }
  put();
  server_.set_faults({.bytes_per_second = 8'000'000});
  const fs::path filler = options_.cache_directory / "filler";
  bool filled = false;
  expect_throw<Error>("cannot be written: No space left on device (", [&] {
    download("o/n", "w.bin", "main", options_, [&](const Progress& progress) {
      if (!filled && progress.done > 500'000) {
        filled = true;
        write_file(filler, std::string(1'900'000, 'x'));
      }
    });
  });
  const auto kept = fs::file_size(blobs() / (tag() + ".incomplete"));
  EXPECT_GT(kept, 500'000u);
  fs::remove(filler);
  server_.set_faults({});
  EXPECT_TRUE(read_file(download("o/n", "w.bin", "main", options_)) == weights_);
  EXPECT_EQ(server_.requests().back().range, fmt::format("bytes={}-", kept));
}

TEST_F(ProcessTest, PythonFindsWhatWeFetched) {
  put();
  const fs::path weights = download("o/n", "w.bin", "main", options_);
  const fs::path config = download("o/n", "sub/config.json", "main", options_);
  EXPECT_EQ(try_download("o/n", "absent.json", "main", options_), std::nullopt);
  std::string output;
  const char* program =
      "from huggingface_hub import hf_hub_download, try_to_load_from_cache, _CACHED_NO_EXIST, scan_cache_dir\n"
      "print(hf_hub_download('o/n', 'w.bin'))\n"
      "print(hf_hub_download('o/n', 'config.json', subfolder='sub'))\n"
      "print(try_to_load_from_cache('o/n', 'absent.json') is _CACHED_NO_EXIST)\n"
      "info = scan_cache_dir()\n"
      "print(len(info.warnings), [(r.repo_id, r.nb_files, sorted(r.refs)) for r in info.repos])\n";
  if (python(program, &output, {"HF_HUB_OFFLINE=1"}) < 0) {
    GTEST_SKIP() << kNoPython;
  }
  EXPECT_EQ(output, fmt::format("{}\n{}\nTrue\n0 [('o/n', 2, ['main'])]", weights.string(), config.string()));
}

TEST_F(ProcessTest, WeFindWhatPythonFetched) {
  put();
  std::string output;
  const char* program =
      "from huggingface_hub import hf_hub_download, file_exists\n"
      "print(hf_hub_download('o/n', 'w.bin'))\n"
      "print(hf_hub_download('o/n', 'sub/config.json'))\n"
      "try: hf_hub_download('o/n', 'absent.json')\n"
      "except Exception: pass\n";
  if (python(program, &output) < 0) {
    GTEST_SKIP() << kNoPython;
  }
  server_.forget_requests();
  options_.offline = true;
  const fs::path weights = download("o/n", "w.bin", "main", options_);
  const fs::path config = download("o/n", "sub/config.json", "main", options_);
  EXPECT_EQ(output, fmt::format("{}\n{}", weights.string(), config.string()));
  EXPECT_TRUE(read_file(weights) == weights_);
  EXPECT_EQ(try_download("o/n", "absent.json", "main", options_), std::nullopt);
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(ProcessTest, PythonsLocksAreOurs) {
  put();
  const RepoCache cache(options_, "o/n");
  fs::create_directories(cache.lock(tag()).parent_path());
  std::string output;
  // We hold it: Python must not get it.
  {
    const FileLock lock(cache.lock(tag()), nullptr);
    const std::string program = fmt::format(
        "from filelock import FileLock, Timeout\n"
        "try:\n  FileLock('{}').acquire(timeout=0.2); print('got it')\n"
        "except Timeout: print('held')\n",
        cache.lock(tag()).string());
    if (python(program, &output) < 0) {
      GTEST_SKIP() << kNoPython;
    }
    EXPECT_EQ(output, "held");
  }
  // Python holds it, and lets us go on afterwards.
  const std::string program = fmt::format(
      "import subprocess, sys\nfrom filelock import FileLock\n"
      "with FileLock('{}'):\n"
      "  p = subprocess.Popen(['{}', 'o/n', 'w.bin'], stderr=subprocess.PIPE, text=True)\n"
      "  print(p.stderr.readline().strip())\n"
      "print(p.wait(20))\n",
      cache.lock(tag()).string(), MAMBA_HUB_TEST_CLIENT);
  python(program, &output);
  EXPECT_NE(output.find("w.bin (waiting for another process)"), std::string::npos) << output;
  EXPECT_TRUE(output.ends_with("0")) << output;
}

TEST_F(ProcessTest, TheServerProgramServesAFolder) {
  const fs::path root = directory_ / "root";
  fs::create_directories(root / "o/n/sub");
  write_file(root / "o/n/sub/config.json", "{\"a\": 1}");
  write_file(root / "o/n/model.safetensors", weights_);
  Process server({"/bin/sh", "-c",
                  fmt::format("sleep 20 | exec '{}' --root '{}' --token t --fault lfs-elsewhere --fault cut=100000:2 "
                              "1>&2",
                              MAMBA_HUB_TEST_SERVER, root.string())},
                 {}, directory_ / "server");
  ASSERT_TRUE(server.wait_for("\n")) << server.errors();
  options_.endpoint = server.errors();
  options_.endpoint.pop_back();
  expect_error(Kind::kUnauthorized, "HF_TOKEN", [&] { download("o/n", "sub/config.json", "main", options_); });
  options_.token = "t";
  EXPECT_EQ(read_file(download("o/n", "sub/config.json", "main", options_)), "{\"a\": 1}");
  EXPECT_TRUE(read_file(download("o/n", "model.safetensors", "main", options_)) == weights_);
}

}  // namespace
}  // namespace mamba::hub::testing
