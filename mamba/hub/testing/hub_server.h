// A hub on 127.0.0.1 for tests: what huggingface.co answers to downloads, and the ways in which networks and servers
// fail. Large (LFS) files can live on a second port, as they live on another host in earnest.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace httplib {
class Server;
struct Request;
struct Response;
}  // namespace httplib

namespace mamba::hub::testing {

struct Faults {
  std::string token;             // when set: 401 without it
  bool gated = false;            // 403 GatedRepo
  int64_t cut_after = -1;        // bodies of files end, connection and all, after so many bytes...
  int cuts = 1'000'000;          // ...that many times
  int64_t stall_after = -1;      // bodies of files stop, connection open, after so many bytes...
  int stalls = 1'000'000;        // ...that many times
  int unavailable = 0;           // so many requests get `status`
  int status = 503;              //
  std::string retry_after;       // goes with it
  bool ignore_range = false;     // always the whole file, with 200
  bool wrong_range = false;      // 206 with another range than asked for
  bool refuse_range = false;     // 416
  bool corrupt = false;          // one byte of each file's body differs
  int64_t extra_bytes = 0;       // more (or fewer) bytes in the body than announced by HEAD
  bool hide_sizes = false;       // no lengths in HEAD and listing; bodies are chunked
  bool encoded = false;          // says Content-Encoding: gzip
  bool lfs_elsewhere = false;    // LFS files are redirects to the second port
  int redirects = 0;             // so many redirects within the hub before the answer
  std::string etag;              // this one for every file
  std::string commit;            // this one in every answer
  std::string location;          // every file is a redirect to it
  std::string info;              // the listing, word for word
  int64_t bytes_per_second = 0;  // 0: no limit
};

struct SeenRequest {
  std::string method;
  std::string path;  // as sent, percent-encoded
  std::string range;
  std::string authorization;
  std::string user_agent;
  std::string accept_encoding;
  bool elsewhere = false;  // on the second port
};

class HubServer {
 public:
  using Files = std::map<std::string, std::string>;  // name → content

  // `certificate` and `key` (PEM files) make it HTTPS.
  explicit HubServer(const std::filesystem::path& certificate = {}, const std::filesystem::path& key = {});
  ~HubServer();
  HubServer(const HubServer&) = delete;
  HubServer& operator=(const HubServer&) = delete;

  // Makes `revision` these files and returns its commit; earlier commits stay. *.safetensors and *.bin are LFS files.
  std::string put(const std::string& repo, const Files& files, const std::string& revision = "main");

  // Every <root>/<owner>/<name> becomes a repository.
  void put_tree(const std::filesystem::path& root);

  // The repository `from` is a redirect to `to`.
  void rename(const std::string& from, const std::string& to);

  std::string endpoint() const;
  int port() const { return port_; }

  void set_faults(const Faults& faults);
  std::vector<SeenRequest> requests() const;
  void forget_requests();
  int count(const std::string& method, const std::string& part) const;  // of paths that contain `part`

  static std::string etag_of(const std::string& name, const std::string& content);

 private:
  struct Repo {
    std::map<std::string, std::string> revisions;  // → commit
    std::map<std::string, std::shared_ptr<const Files>> commits;
  };

  int start(httplib::Server& server, std::thread& thread, bool elsewhere);
  void handle(const httplib::Request& request, httplib::Response& response, bool elsewhere);
  void answer_hub(const httplib::Request& request, httplib::Response& response, Faults& faults);
  void answer_info(const Repo& repo, const std::string& commit, httplib::Response& response, const Faults& faults);
  void answer_file(const httplib::Request& request, httplib::Response& response, const Faults& faults,
                   const std::string& name, const std::string& content, const std::string& commit);
  void send_content(const httplib::Request& request, httplib::Response& response, const Faults& faults,
                    const std::string& content);

  bool secure_ = false;
  std::unique_ptr<httplib::Server> hub_;
  std::unique_ptr<httplib::Server> elsewhere_;
  int port_ = 0;
  int elsewhere_port_ = 0;
  std::thread hub_thread_;
  std::thread elsewhere_thread_;
  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;  // guards all below
  std::map<std::string, Repo> repos_;
  std::map<std::string, std::string> renamed_;
  std::map<std::string, std::string> elsewhere_content_;  // etag → content
  Faults faults_;
  std::vector<SeenRequest> requests_;
};

}  // namespace mamba::hub::testing
