// The processes of one run on LibTorch's c10d: no collective operation of our own. Tensors of the CPU go through the Gloo that is inside libtorch_cpu, those of another device through the backend
// that the group was given for it (dist/nccl.hpp). Needs the headers of Gloo (Debian's libgloo-dev), which LibTorch's packages lack.
#pragma once

#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO  // what c10d's header asks for before it declares anything
#endif

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <c10/core/DeviceType.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/ranks.hpp>
#include <dapt/dist/heartbeat.hpp>
#include <dapt/dist/rendezvous.hpp>

namespace dapt {

struct ProcessGroupOptions {
  std::chrono::milliseconds timeout = std::chrono::minutes(5);  ///< of the meeting and of each operation; longer than a rank may let the others wait, but in after_first
};

/// Makes a backend for one kind of device; all ranks call it alike.
using MakeBackend = std::function<c10::intrusive_ptr<c10d::Backend>(c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::chrono::milliseconds timeout)>;

/// Gloo writes to other ranks' sockets as to files: where a rank is gone, SIGPIPE would end this process without a word. Ignored, the write fails, and this rank names that one. A handler of the program's own stays.
inline void survive_broken_pipes() {
  struct sigaction now = {};
  if (sigaction(SIGPIPE, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
}

/// Gloo over the interface that GLOO_SOCKET_IFNAME names, else over the one that leads to the store. The interface of this machine's name, c10d's default, is the loopback on many systems (Debian's /etc/hosts).
inline c10::intrusive_ptr<c10d::Backend> gloo_backend(c10::intrusive_ptr<c10d::Store> store, const Rendezvous& rendezvous, std::chrono::milliseconds timeout) {
  const auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  const auto interface = detail::environment("GLOO_SOCKET_IFNAME");
  if (interface) {
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(std::string(*interface)));
  } else {
    const bool is_local = rendezvous.host == "127.0.0.1" || rendezvous.host == "localhost";
    const std::string address = is_local ? "127.0.0.1" : detail::address_towards(rendezvous.host, rendezvous.port);
    require(is_local || rendezvous.local_size == rendezvous.size || !(address.starts_with("127.") || address == "::1"), "MASTER_ADDR is \"", rendezvous.host,
            "\", which this machine takes for itself by a name that others do not reach it by (", address, "); give an address of the network, or GLOO_SOCKET_IFNAME");
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
  }
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rendezvous.rank, rendezvous.size, options);
}

/// Every rank calls the same operations in the same order. What fails because of another rank throws dapt::Error with that rank's number, at the latest when the timeout and five seconds are
/// over; the group is of no use then.
class ProcessGroup final : public Ranks {
 public:
  /// Returns when all ranks have come. Throws dapt::Error naming those that did not within the timeout. `backends`: for tensors of other devices; the CPU's, and all numbers and texts, go through Gloo.
  /// From then on SIGPIPE is ignored where the program has no handler for it.
  ///
  ///     dapt::ProcessGroup group(rendezvous, {}, {{c10::kCUDA, dapt::nccl_backend}});
  explicit ProcessGroup(const Rendezvous& rendezvous, ProcessGroupOptions options = {}, const std::map<c10::DeviceType, MakeBackend>& backends = {})
      : rank_(rendezvous.rank), size_(rendezvous.size), timeout_(options.timeout) {
    survive_broken_pipes();
    const std::string place = rendezvous.host + ":" + std::to_string(rendezvous.port);
    const auto connect = [&](bool hosts) -> c10::intrusive_ptr<c10d::Store> {
      c10d::TCPStoreOptions store;
      store.port = rendezvous.port;
      store.isServer = hosts;
      store.waitWorkers = false;
      store.timeout = options.timeout;
      try {
        return c10::make_intrusive<c10d::PrefixStore>("dapt/" + rendezvous.prefix, c10::make_intrusive<c10d::TCPStore>(rendezvous.host, store));
      } catch (const std::exception& error) {
        fail("ProcessGroup: rank ", rank_, hosts ? " cannot open the store at " : " finds no store at ", place, " (rank 0 opens it): ", first_line(error));
      }
    };
    store_ = connect(rendezvous.hosts_store && rank_ == 0);
    meet(*store_, place, options.timeout);
    try {
      heartbeat_ = std::make_unique<detail::Heartbeat>(connect(false), rank_, size_, rendezvous.hosts_store);
      const auto keys = [&](c10::DeviceType type) { return c10::make_intrusive<c10d::PrefixStore>("group/" + c10::DeviceTypeName(type, /*lower_case=*/true) + "/", store_); };
      backends_[c10::kCPU] = gloo_backend(keys(c10::kCPU), rendezvous, options.timeout);
      for (const auto& [type, make] : backends) backends_[type] = make(keys(type), rank_, size_, options.timeout);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      fail_because_of(error, "connecting the ranks");
    }
  }
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;
  ~ProcessGroup() override {
    for (const auto& [type, backend] : backends_) {
      try {
        if (type != c10::kCPU) backend->shutdown();
      } catch (const std::exception&) {  // of a group that failed before
      }
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  /// "2 (gloo)", "2 (gloo, for cuda nccl)"
  std::string describe() const override {
    std::string names;
    for (const auto& [type, backend] : backends_)
      names += (names.empty() ? "" : ", for " + c10::DeviceTypeName(type, /*lower_case=*/true) + " ") + backend->getBackendName();
    return std::to_string(size_) + " (" + names + ")";
  }

  Pending sum(Tensor tensor, std::string_view kind) override {
    return begin(kind, std::move(tensor), [](c10d::Backend& backend, std::vector<Tensor>& tensors) { return backend.allreduce(tensors); });
  }
  Pending sum_to(Tensor tensor, int to, std::string_view kind) override {
    return begin(kind, std::move(tensor), [to](c10d::Backend& backend, std::vector<Tensor>& tensors) {
      c10d::ReduceOptions options;
      options.rootRank = to;
      return backend.reduce(tensors, options);
    });
  }
  Pending broadcast(Tensor tensor, int from = 0, std::string_view kind = "broadcast") override {
    return begin(kind, std::move(tensor), [from](c10d::Backend& backend, std::vector<Tensor>& tensors) {
      c10d::BroadcastOptions options;
      options.rootRank = from;
      return backend.broadcast(tensors, options);
    });
  }
  /// Returns when every rank has called it.
  void barrier() { gather(""); }
  std::vector<std::string> gather(const std::string& text) override;

  /// Rank 0 does `work`, and all return when it is done. The others wait without an end while rank 0 lives, as where it writes for longer than the timeout; they throw dapt::Error where it was killed or has
  /// ended, and where nothing was heard of it for the timeout. What `work` throws is thrown on rank 0 alone.
  void after_first(const std::function<void()>& work);

  /// As in after_first, of all ranks: those that come first wait without an end while the others live.
  void wait_for_all() override {
    ++works_;
    heartbeat_->finish();
    wait_for_works(/*of_all=*/true);
    barrier();  // none goes on, and may end, before all could read that it was here
  }

  /// Tells the others that this rank stops before its time, so that they can name it and say why.
  void leave(const std::string& why) {
    if (heartbeat_) heartbeat_->leave(why);
  }

  /// Bytes that this rank gave to operations so far, by kind. What goes over the wire is 2 (n - 1) / n of it for a sum over n ranks.
  const std::map<std::string, std::int64_t, std::less<>>& bytes() const { return bytes_; }

 private:
  static std::string first_line(const std::exception& error) {
    const std::string text = error.what();
    return text.substr(0, text.find('\n'));
  }

  [[noreturn]] void fail_because_of(const std::exception& error, std::string_view what) {
    const std::string cause = heartbeat_ ? heartbeat_->cause() : "";
    fail<RanksParted>("ProcessGroup: rank ", rank_, " of ", size_, " cannot go on: ", what, " failed", cause.empty() ? "" : "; ", cause, " (", first_line(error), ")");
  }

  void meet(c10d::Store& store, const std::string& place, std::chrono::milliseconds timeout) {
    const auto key = [](int rank) { return "here/" + std::to_string(rank); };
    std::vector<std::string> keys;
    for (int rank = 0; rank < size_; ++rank) keys.push_back(key(rank));
    std::string missing;
    try {
      require(store.add(key(rank_), 1) == 1, "ProcessGroup: two processes came to ", place, " as rank ", rank_);
      store.wait(keys, timeout);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      try {
        for (int rank = 0; rank < size_; ++rank)
          if (!store.check({key(rank)})) missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(rank);
      } catch (const std::exception&) {
        missing = "rank 0, which keeps the store,";
      }
      fail("ProcessGroup: rank ", rank_, " waited at ", place, " for ", timeout.count() / 1000.0, " s; ", missing.empty() ? first_line(error) : missing + " did not come");
    }
  }

  c10d::Backend& backend_of(const Tensor& tensor) const {
    const auto found = backends_.find(tensor.device().type());
    require(found != backends_.end(), "ProcessGroup: a tensor lies on ", tensor.device(), ", for which this group has no backend: ", describe());
    return *found->second;
  }

  void wait_for_works(bool of_all) {
    const std::string gone = heartbeat_->wait_for(of_all, works_, timeout_);
    if (!gone.empty()) fail<RanksParted>("ProcessGroup: rank ", rank_, " of ", size_, " cannot go on: waiting for the work of ", of_all ? "all ranks" : "rank 0", " failed; ", gone);
  }

  template <class Begin>
  Pending begin(std::string_view kind, Tensor tensor, Begin call) {
    c10d::Backend& backend = backend_of(tensor);
    count(kind, tensor);
    std::vector<Tensor> tensors{std::move(tensor)};
    std::string what(kind);
    try {
      return [this, what, work = call(backend, tensors), kept = tensors] {
        try {
          work->wait();
        } catch (const std::exception& error) {
          fail_because_of(error, "exchanging " + what);
        }
      };
    } catch (const std::exception& error) {
      fail_because_of(error, "exchanging " + what);
    }
  }
  void count(std::string_view kind, const Tensor& tensor) {
    const auto bytes = static_cast<std::int64_t>(tensor.nbytes());
    if (const auto found = bytes_.find(kind); found != bytes_.end()) found->second += bytes;
    else bytes_.emplace(kind, bytes);
  }

  int rank_, size_;
  std::chrono::milliseconds timeout_;
  std::int64_t works_ = 0;  // that rank 0, or all, were waited for
  c10::intrusive_ptr<c10d::Store> store_;  // with the server, on the rank that hosts it
  std::unique_ptr<detail::Heartbeat> heartbeat_;
  std::map<c10::DeviceType, c10::intrusive_ptr<c10d::Backend>> backends_;  // the CPU's is first
  std::map<std::string, std::int64_t, std::less<>> bytes_;
};

inline void ProcessGroup::after_first(const std::function<void()>& work) {
  ++works_;
  if (rank_ != 0) {
    heartbeat_->finish();  // its own part in it: all count alike
    wait_for_works(/*of_all=*/false);
    return barrier();
  }
  std::exception_ptr failure;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
  heartbeat_->finish();
  try {
    barrier();  // the store must not end before the others could read that the work is done
  } catch (const Error&) {
    if (!failure) throw;
  }
  if (failure) std::rethrow_exception(failure);
}

inline std::vector<std::string> ProcessGroup::gather(const std::string& text) {
  const auto all = [&](const Tensor& mine) {
    std::vector<std::vector<Tensor>> results(1);
    for (int rank = 0; rank < size_; ++rank) results[0].push_back(at::empty_like(mine));
    std::vector<Tensor> tensors{mine};
    begin("gathered values", mine, [&](c10d::Backend& backend, std::vector<Tensor>&) { return backend.allgather(results, tensors); })();
    return results[0];
  };
  const std::vector<Tensor> lengths = all(at::full({1}, static_cast<std::int64_t>(text.size()), at::kLong));
  std::int64_t longest = 1;
  for (const Tensor& length : lengths) longest = std::max(longest, length.item<std::int64_t>());
  const Tensor mine = at::empty({longest}, at::kByte);
  std::memcpy(mine.mutable_data_ptr(), text.data(), text.size());
  std::vector<std::string> texts;
  const std::vector<Tensor> padded = all(mine);
  for (std::size_t rank = 0; rank < padded.size(); ++rank)
    texts.emplace_back(static_cast<const char*>(padded[rank].const_data_ptr()), static_cast<std::size_t>(lengths[rank].item<std::int64_t>()));
  return texts;
}

}  // namespace dapt
