#include "mamba/hub/testing/hub_server.h"

#include <httplib.h>

#include <chrono>
#include <optional>

#include "mamba/base/error.h"
#include "mamba/base/file.h"
#include "mamba/base/json.h"
#include "mamba/hub/checksum.h"

namespace mamba::hub::testing {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPiece = size_t{64} << 10;

bool is_lfs(const std::string& name) {
  return name.ends_with(".safetensors") || name.ends_with(".bin");
}

std::string decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

void refuse(httplib::Response& response, int status, const char* code, const char* message) {
  response.status = status;
  if (*code != '\0') {
    response.set_header("X-Error-Code", code);
  }
  response.set_header("X-Error-Message", message);
  response.set_content(message, "text/plain");
}

// "bytes=N-" → N
std::optional<size_t> range_begin(const httplib::Request& request) {
  const std::string range = request.get_header_value("Range");
  constexpr std::string_view kUnit = "bytes=";
  if (!range.starts_with(kUnit)) {
    return std::nullopt;
  }
  return std::stoull(range.substr(kUnit.size()));
}

void pause(int64_t milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

}  // namespace

HubServer::HubServer(const fs::path& certificate, const fs::path& key) : secure_(!certificate.empty()) {
  if (secure_) {
    hub_ = std::make_unique<httplib::SSLServer>(certificate.c_str(), key.c_str());
  } else {
    hub_ = std::make_unique<httplib::Server>();
  }
  elsewhere_ = std::make_unique<httplib::Server>();
  port_ = start(*hub_, hub_thread_, false);
  elsewhere_port_ = start(*elsewhere_, elsewhere_thread_, true);
}

int HubServer::start(httplib::Server& server, std::thread& thread, bool elsewhere) {
  server.new_task_queue = [] { return new httplib::ThreadPool(16); };
  server.set_keep_alive_timeout(2);
  server.set_tcp_nodelay(true);
  server.set_pre_routing_handler([this, elsewhere](const httplib::Request& request, httplib::Response& response) {
    // Ranges are answered here, rightly or wrongly, and not by httplib.
    const_cast<httplib::Request&>(request).ranges.clear();
    handle(request, response, elsewhere);
    return httplib::Server::HandlerResponse::Handled;
  });
  const int port = server.bind_to_any_port("127.0.0.1");
  check(port > 0, "127.0.0.1: no port can be bound");
  thread = std::thread([&server] { server.listen_after_bind(); });
  while (!server.is_running()) {
    pause(1);
  }
  return port;
}

HubServer::~HubServer() {
  stopping_ = true;
  hub_->stop();
  elsewhere_->stop();
  hub_thread_.join();
  elsewhere_thread_.join();
}

std::string HubServer::etag_of(const std::string& name, const std::string& content) {
  Checksum sum = is_lfs(name) ? Checksum::sha256() : Checksum::git_blob(static_cast<int64_t>(content.size()));
  sum.update(content.data(), content.size());
  return sum.hex();
}

std::string HubServer::put(const std::string& repo, const Files& files, const std::string& revision) {
  std::string listing = repo;
  for (const auto& [name, content] : files) {
    listing += fmt::format("\n{} {}", name, etag_of(name, content));
  }
  Checksum sum = Checksum::git_blob(static_cast<int64_t>(listing.size()));
  sum.update(listing.data(), listing.size());
  const std::string commit = sum.hex();
  const std::lock_guard<std::mutex> lock(mutex_);
  repos_[repo].commits[commit] = std::make_shared<const Files>(files);
  repos_[repo].revisions[revision] = commit;
  return commit;
}

void HubServer::put_tree(const fs::path& root) {
  for (const auto& owner : fs::directory_iterator(root)) {
    for (const auto& folder : fs::directory_iterator(owner.path())) {
      Files files;
      for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
        if (entry.is_regular_file()) {
          files[entry.path().lexically_relative(folder.path()).generic_string()] = read_file(entry.path());
        }
      }
      put(folder.path().lexically_relative(root).generic_string(), files);
    }
  }
}

void HubServer::rename(const std::string& from, const std::string& to) {
  const std::lock_guard<std::mutex> lock(mutex_);
  renamed_[from] = to;
}

std::string HubServer::endpoint() const {
  return fmt::format("{}://127.0.0.1:{}", secure_ ? "https" : "http", port_);
}

void HubServer::set_faults(const Faults& faults) {
  const std::lock_guard<std::mutex> lock(mutex_);
  faults_ = faults;
}

std::vector<SeenRequest> HubServer::requests() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return requests_;
}

void HubServer::forget_requests() {
  const std::lock_guard<std::mutex> lock(mutex_);
  requests_.clear();
}

int HubServer::count(const std::string& method, const std::string& part) const {
  int found = 0;
  for (const SeenRequest& request : requests()) {
    found += request.method == method && request.path.find(part) != std::string::npos ? 1 : 0;
  }
  return found;
}

void HubServer::handle(const httplib::Request& request, httplib::Response& response, bool elsewhere) {
  const std::lock_guard<std::mutex> lock(mutex_);
  requests_.push_back({.method = request.method,
                       .path = request.target,
                       .range = request.get_header_value("Range"),
                       .authorization = request.get_header_value("Authorization"),
                       .user_agent = request.get_header_value("User-Agent"),
                       .accept_encoding = request.get_header_value("Accept-Encoding"),
                       .elsewhere = elsewhere});
  if (faults_.unavailable > 0) {
    --faults_.unavailable;
    if (!faults_.retry_after.empty()) {
      response.set_header("Retry-After", faults_.retry_after);
    }
    return refuse(response, faults_.status, "", "Not now");
  }
  if (!elsewhere) {
    return answer_hub(request, response, faults_);
  }
  const auto found = elsewhere_content_.find(request.path.substr(1));
  if (found == elsewhere_content_.end()) {
    return refuse(response, 403, "", "Signature expired");
  }
  send_content(request, response, faults_, found->second);
}

// /api/models/<repo>/revision/<revision> and /<repo>/resolve/<revision>/<file>
void HubServer::answer_hub(const httplib::Request& request, httplib::Response& response, Faults& faults) {
  if (faults.redirects > 0) {
    --faults.redirects;
    return response.set_redirect(request.target, 307);
  }
  std::string target = request.target.substr(0, request.target.find('?'));
  constexpr std::string_view kApi = "/api/models/";
  const bool api = target.starts_with(kApi);
  const std::string mark = api ? "/revision/" : "/resolve/";
  const size_t at = target.find(mark);
  if (at == std::string::npos) {
    return refuse(response, 404, "", "No such page");
  }
  const size_t begin = api ? kApi.size() : 1;
  const std::string name = target.substr(begin, at - begin);
  if (const auto renamed = renamed_.find(name); renamed != renamed_.end()) {
    return response.set_redirect(request.target.substr(0, begin) + renamed->second + request.target.substr(at), 307);
  }
  if (!faults.token.empty() && request.get_header_value("Authorization") != "Bearer " + faults.token) {
    return refuse(response, 401, "", "Invalid username or password.");
  }
  if (faults.gated) {
    return refuse(response, 403, "GatedRepo", "Access to this model is restricted.");
  }
  const auto repo = repos_.find(name);
  if (repo == repos_.end()) {  // strangers do not learn which names are taken
    return faults.token.empty() ? refuse(response, 401, "RepoNotFound", "Invalid username or password.")
                                : refuse(response, 404, "RepoNotFound", "Repository not found");
  }
  const std::string rest = target.substr(at + mark.size());
  const std::string revision = decoded(rest.substr(0, rest.find('/')));
  const auto known = repo->second.revisions.find(revision);
  const std::string commit = known != repo->second.revisions.end() ? known->second : revision;
  const auto files = repo->second.commits.find(commit);
  if (files == repo->second.commits.end()) {
    return refuse(response, 404, "RevisionNotFound", "Invalid rev id: nothing of that name");
  }
  if (api) {
    return answer_info(repo->second, commit, response, faults);
  }
  response.set_header("X-Repo-Commit", faults.commit.empty() ? commit : faults.commit);
  const std::string file = decoded(rest.substr(std::min(rest.size(), rest.find('/') + 1)));
  const auto content = files->second->find(file);
  if (content == files->second->end()) {
    return refuse(response, 404, "EntryNotFound", "Entry not found");
  }
  answer_file(request, response, faults, file, content->second, commit);
}

void HubServer::answer_info(const Repo& repo, const std::string& commit, httplib::Response& response,
                            const Faults& faults) {
  Json siblings = Json::array();
  for (const auto& [name, content] : *repo.commits.at(commit)) {
    Json entry{{"rfilename", name}};
    if (!faults.hide_sizes) {
      entry["size"] = content.size();
      entry["blobId"] = Checksum::git_blob(0).hex();
      if (is_lfs(name)) {
        entry["lfs"] = {{"sha256", etag_of(name, content)}, {"size", content.size()}, {"pointerSize", 134}};
      } else {
        entry["blobId"] = etag_of(name, content);
      }
    }
    siblings.push_back(entry);
  }
  const Json info{{"sha", faults.commit.empty() ? commit : faults.commit}, {"siblings", siblings}};
  response.status = 200;
  response.set_content(faults.info.empty() ? json_text(info) : faults.info, "application/json");
}

void HubServer::answer_file(const httplib::Request& request, httplib::Response& response, const Faults& faults,
                            const std::string& name, const std::string& content, const std::string& commit) {
  const std::string etag = faults.etag.empty() ? etag_of(name, content) : faults.etag;
  if (!faults.location.empty()) {
    response.set_header("X-Linked-Etag", fmt::format("\"{}\"", etag));
    response.set_header("X-Linked-Size", std::to_string(content.size()));
    return response.set_redirect(faults.location, 302);
  }
  if (is_lfs(name) && faults.lfs_elsewhere) {
    response.set_header("X-Linked-Etag", fmt::format("\"{}\"", etag));
    if (!faults.hide_sizes) {
      response.set_header("X-Linked-Size", std::to_string(content.size()));
    }
    // The redirect's own tag is not the file's.
    response.set_header("ETag", fmt::format("\"{}\"", commit));
    elsewhere_content_[etag] = content;
    return response.set_redirect(fmt::format("http://127.0.0.1:{}/{}", elsewhere_port_, etag), 302);
  }
  response.set_header("ETag", fmt::format("{}\"{}\"", is_lfs(name) ? "" : "W/", etag));
  send_content(request, response, faults, content);
}

void HubServer::send_content(const httplib::Request& request, httplib::Response& response, const Faults& faults,
                             const std::string& content) {
  const bool head = request.method == "HEAD";
  auto body = std::make_shared<std::string>(content);
  if (faults.corrupt && !body->empty()) {
    (*body)[body->size() / 2] ^= 1;
  }
  if (!head && faults.extra_bytes != 0) {
    body->resize(static_cast<size_t>(static_cast<int64_t>(body->size()) + faults.extra_bytes), 'x');
  }
  size_t begin = 0;
  response.status = 200;
  if (const std::optional<size_t> asked = range_begin(request); asked && !faults.ignore_range) {
    begin = faults.wrong_range ? *asked / 2 : *asked;
    if (begin >= body->size() || faults.refuse_range) {
      response.set_header("Content-Range", fmt::format("bytes */{}", body->size()));
      return refuse(response, 416, "", "Range not satisfiable");
    }
    response.status = 206;
    response.set_header("Content-Range", fmt::format("bytes {}-{}/{}", begin, body->size() - 1, body->size()));
  }
  if (faults.encoded) {
    response.set_header("Content-Encoding", "gzip");
  }
  response.set_header("Accept-Ranges", "bytes");
  const size_t length = body->size() - begin;
  // Faults count requests for bodies, and only those that are long enough.
  int64_t cut = -1;
  int64_t stall = -1;
  if (!head && faults_.cut_after >= 0 && faults_.cuts > 0 && faults_.cut_after < static_cast<int64_t>(length)) {
    --faults_.cuts;
    cut = faults_.cut_after;
  }
  if (!head && faults_.stall_after >= 0 && faults_.stalls > 0 && faults_.stall_after < static_cast<int64_t>(length)) {
    --faults_.stalls;
    stall = faults_.stall_after;
  }
  const int64_t speed = faults.bytes_per_second;
  const auto piece_at = [this, body, begin, length, cut, stall, speed](size_t offset, httplib::DataSink& sink) {
    if (cut >= 0 && static_cast<int64_t>(offset) >= cut) {
      return false;
    }
    while (stall >= 0 && static_cast<int64_t>(offset) >= stall) {
      if (stopping_ || !sink.is_writable()) {
        return false;
      }
      pause(10);
    }
    if (stopping_) {
      return false;
    }
    size_t size = std::min(length - offset, kPiece);
    for (const int64_t limit : {cut, stall}) {
      size = limit >= 0 ? std::min(size, static_cast<size_t>(limit) - offset) : size;
    }
    if (speed > 0) {
      size = std::min(size, static_cast<size_t>(std::max<int64_t>(1, speed / 50)));
      pause(20);
    }
    return sink.write(body->data() + begin + offset, size);
  };
  if (faults.hide_sizes) {
    response.set_chunked_content_provider("application/octet-stream",
                                          [piece_at, length](size_t offset, httplib::DataSink& sink) {
                                            if (offset >= length) {
                                              sink.done();
                                              return true;
                                            }
                                            return piece_at(offset, sink);
                                          });
  } else if (length == 0) {
    response.set_content("", "application/octet-stream");
  } else {
    response.set_content_provider(
        length, "application/octet-stream",
        [piece_at](size_t offset, size_t, httplib::DataSink& sink) { return piece_at(offset, sink); });
  }
}

}  // namespace mamba::hub::testing
