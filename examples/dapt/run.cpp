#include "run.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <regex>
#include <sstream>
#include <system_error>
#include <thread>

#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include <sched.h>
#include <sys/file.h>
#include <unistd.h>

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <nlohmann/json.hpp>
#include <torch/headeronly/version.h>

#include <dapt/core/deterministic.hpp>
#include <dapt/core/device.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/data/token_store.hpp>
#include <dapt/data/utf8.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/io/weight_folder.hpp>
#include <dapt/kernels/kernel_report.hpp>
#include <dapt/models/llama_config.hpp>
#include <dapt/version.hpp>

#include "corpus.hpp"
#include "embeddings.hpp"
#include "interrupt.hpp"
#include "processes.hpp"

namespace dapt_program {
namespace {

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

std::string memory_allocator() { return dlsym(RTLD_DEFAULT, "tc_version") != nullptr ? "tcmalloc" : "the C library's"; }

/// Gives the system what the allocator keeps of freed memory.
void release_freed_memory() {
  if (void* const release = dlsym(RTLD_DEFAULT, "MallocExtension_ReleaseFreeMemory")) reinterpret_cast<void (*)()>(release)();  // tcmalloc's
  else malloc_trim(0);
}

std::string version_of_dapt() {
  return std::to_string(DAPT_VERSION_MAJOR) + "." + std::to_string(DAPT_VERSION_MINOR) + "." + std::to_string(DAPT_VERSION_PATCH);
}

/// "the end-of-document token" as a reader knows it: its text cannot be had by decoding, which leaves special tokens out.
std::string separator(const RunOptions& run, const dapt::AnyTokenizer& tokenizer) {
  if (!run.packing.eos) return "none";
  return "end-of-document token, id " + std::to_string(*tokenizer.special_tokens().end_of_document);
}

/// What stands where the first document ends and the second begins, as it is trained on: text, ids, text.
std::string first_border(const Run& run) {
  const dapt::TokenStore& store = run.sequences.store();
  if (store.documents() < 2) return "none in one document";
  const dapt::PackOptions& packing = run.sequences.options();
  const std::int64_t bos = packing.bos.has_value(), end = bos + store.tokens_before(1), next = end + packing.separator.has_value() + bos;  // among all tokens, with what is put between them
  const auto ids = [&](std::int64_t from, std::int64_t to) {
    std::vector<std::int32_t> found;
    for (std::int64_t at = from; at < to; ++at) found.push_back(run.sequences[static_cast<std::size_t>(at / packing.max_length)].input_ids[static_cast<std::size_t>(at % packing.max_length)]);
    return found;
  };
  const auto text = [&](std::int64_t from, std::int64_t to) { return nlohmann::json(run.tokenizer.decode(ids(from, to))).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); };
  constexpr std::int64_t shown = 8;
  std::string between;
  for (const std::int32_t id : ids(end, next)) between += ' ' + std::to_string(id);
  return text(std::max(bos, end - shown), end) + (between.empty() ? " | " : " [" + between.substr(1) + "] ") + text(next, std::min(next + shown, next + store.tokens_before(2) - store.tokens_before(1)));
}

/// The store that the run names, or one that is made of its pages.
dapt::TokenStore open_store(const RunOptions& run, const dapt::AnyTokenizer& tokenizer, std::optional<dapt::FilterSummary>& filter) {
  const dapt::Hash128 hash = dapt::tokenizer_hash(run.models.front());
  if (!run.store.empty()) return dapt::TokenStore(run.store, hash);
  const fs::path file = run.out / (".tokens." + std::to_string(processes() == nullptr ? 0 : processes()->rank()) + ".store");
  RunOptions keeping = run;
  if (run.pages.scored_by_model() && run.pages.write_scores.empty()) keeping.pages.write_scores = run.out / "scores.jsonl";
  CorpusReport report = store_pages(keeping, tokenizer, file);
  print_summary(std::cerr, report);
  filter = std::move(report.filter);
  dapt::TokenStore store(file, hash);
  std::error_code ignored;
  fs::remove(file, ignored);  // what is mapped stays until the process ends
  return store;
}

/// No other run writes to the folder until this process ends, however it ends.
void hold_folder(const fs::path& folder) {
  const int held = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  dapt::require(held >= 0, folder.string(), ": cannot be opened: ", std::strerror(errno));
  if (flock(held, LOCK_EX | LOCK_NB) == 0) return;
  dapt::require(errno != EWOULDBLOCK, folder.string(), ": another run writes to it just now; wait for its end, or give another --out");
  std::cerr << folder.string() << ": cannot be locked (" << std::strerror(errno) << "); that no other run writes to the folder is not checked\n";
}

/// What killed processes left of stores that they made of the pages, also where the run had more processes. One that is being written, where folders cannot be held, is locked, and stays.
void remove_leftover_stores(const fs::path& folder) {
  static const std::regex names(R"(\.tokens\.[0-9]+\.store|\.\.tokens\.[0-9]+\.store\.[0-9]+\.tmp)");
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), none; !error && entry != none; entry.increment(error)) {
    if (!std::regex_match(entry->path().filename().string(), names)) continue;
    const int file = open(entry->path().c_str(), O_WRONLY | O_CLOEXEC);
    if (file < 0) continue;
    if (flock(file, LOCK_EX | LOCK_NB) == 0) unlink(entry->path().c_str());
    close(file);
  }
}

/// Which devices there are, what of the model lies where, and what computes there.
void add_devices(dapt::RunHeader& header, const RunOptions& run) {
  const std::vector<at::Device> devices = dapt::devices_from_names(run.device);
  std::string names;
  for (const at::Device device : devices) names += (names.empty() ? "" : "; ") + dapt::describe_device(device);
  if (processes() != nullptr && !devices.front().is_cpu()) names = processes()->gather(names).front();  // of the others each has one too
  header.add("device", names);
  if (devices.size() > 1) {
    const auto config = dapt::LlamaConfig::from_file(run.models.front() / "config.json");
    header.add("layers by device", dapt::Llama::without_storage(config, dapt::dtype_from_name(run.dtype), llama_options(run)).placement());
  }
  header.add("memory allocator", memory_allocator());
  std::vector<at::DeviceType> types;  // one report for each
  for (const at::Device device : devices) {
    if (std::find(types.begin(), types.end(), device.type()) != types.end()) continue;
    types.push_back(device.type());
    for (const std::string& line : dapt::kernel_report(device)) header.add("kernels", line);
  }
}

/// The speed of matrix products of a layer's size.
double product_gigaflops(at::ScalarType dtype) {
  constexpr std::int64_t rows = 1024, in = 1024, out = 1024;
  const at::Tensor a = at::ones({rows, in}, dtype), b = at::ones({in, out}, dtype);
  at::mm(a, b);  // the first product makes its kernel
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  double products = 0;
  for (; seconds() < 0.2; ++products) at::mm(a, b);
  return 2e-9 * rows * in * out * products / seconds();
}

/// A scheduler may give each process, or the job, a part of the machine.
int cores_of_this_process() {
#ifdef _OPENMP
  return omp_get_num_procs();  // under OMP_PROC_BIND this thread alone has one core, its process has more
#else
  cpu_set_t own;
  return sched_getaffinity(0, sizeof own, &own) == 0 ? CPU_COUNT(&own) : std::numeric_limits<int>::max();
#endif
}

}  // namespace

void make_folder(const fs::path& folder) {
  dapt::require(!folder.empty(), "--out is missing: the folder to write to");
  std::error_code error;
  fs::create_directories(folder, error);
  dapt::require(!error, folder.string(), ": cannot make the folder: ", error.message());
  dapt::require(access(folder.c_str(), W_OK) == 0, folder.string(), ": cannot be written to");
}

void set_threads(RunOptions& run) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int allowed = cores_of_this_process();
  if (run.threads == 0) run.threads = std::clamp(cores / processes_on_this_machine(), 1, allowed);  // dapt::parallel_for would take 0 for the whole machine
  at::set_num_threads(run.threads);
}

void prepare_process(RunOptions& run) {
  set_threads(run);
  const std::vector<at::Device> devices = dapt::devices_from_names(run.device);
  const bool on_a_gpu = std::any_of(devices.begin(), devices.end(), [](at::Device device) { return !device.is_cpu(); });
  if (devices.front().is_cuda()) c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(devices.front());  // or each process would hold a few hundred MiB of the first GPU
  if (on_a_gpu) dapt::use_deterministic_algorithms();
  if (run.dtype == "auto" && on_a_gpu) {
    run.dtype = "bf16";
    run.dtype_choice = ", chosen by --dtype auto for a GPU";
  }
  if (run.dtype != "auto") return;
  const double bf16 = product_gigaflops(at::kBFloat16), fp32 = product_gigaflops(at::kFloat);
  run.dtype = bf16 > fp32 ? "bf16" : "fp32";
  if (processes() != nullptr) run.dtype = processes()->gather(run.dtype)[0];  // the first one's measurement, for all
  std::ostringstream choice;
  choice << ", chosen by --dtype auto: products run at " << std::lround(bf16) << " GFLOP/s in bf16 and " << std::lround(fp32) << " in fp32";
  run.dtype_choice = choice.str();
}

Run prepare_run(const RunOptions& run, const dapt::AnyTokenizer& tokenizer) {
  outlive_the_terminal();
  make_folder(run.out);
  if (is_first_process()) {
    hold_folder(run.out);
    remove_leftover_stores(run.out);
  }
  of_the_first_process("it has the folder");  // before the others write to it
  const Embeddings embeddings(run.models.front(), tokenizer);
  const dapt::PackOptions packing = pack_options(run.packing, tokenizer);
  embeddings.require_for(packing);
  std::optional<dapt::FilterSummary> filter;
  const dapt::TokenStore store = open_store(run, tokenizer, filter);
  embeddings.require_for(store);
  Run prepared{.tokenizer = tokenizer, .sequences = dapt::StoredSequences(store, packing), .filter = std::move(filter)};
  if (run.held_out > 0) prepared.held_out = store.held_out();
  embeddings.require_for(prepared.held_out, run.threads);

  dapt::RunHeader& header = prepared.header;
  const dapt::PackSummary& packed = prepared.sequences.summary();
  header.add("model", dapt::utf8_name(run.models.front().string()));
  header.add("dtype of weights and compute", std::string(dapt::dtype_name(dapt::dtype_from_name(run.dtype))) + run.dtype_choice);
  header.add("frozen base weights", run.quantize == "none" ? "not quantised" : describe(dapt::quantization_from_name(run.quantize)) + "; embedding, head and norms are not quantised");
  if (!run.store.empty()) header.add("token store", dapt::utf8_name(run.store.string()));
  header.append(store.description());
  header.add("training data", std::to_string(packed.documents + packed.empty_documents) + " pages, " + std::to_string(packed.source_tokens) + " tokens in " + std::to_string(packed.sequences) +
                                  " sequences of " + std::to_string(run.packing.max_length) + ", documents " +
                                  (run.packing.isolate_documents ? "isolated from each other" : "joined") + ", between them: " + separator(run, prepared.tokenizer));
  header.add("before each document", packing.bos ? "BOS, id " + std::to_string(*packing.bos) : "nothing");
  header.add("first border of documents", first_border(prepared));
  header.add("held-out pages", std::to_string(prepared.held_out.size()));
  header.add("seed", std::to_string(run.seed));
  header.add("gradient checkpointing", checkpointing(run).name());
  header.add("machine", processor());
  header.add("threads", std::to_string(at::get_num_threads()));
  add_devices(header, run);
  header.add("versions", "dapt " + version_of_dapt() + ", LibTorch " + TORCH_VERSION);
  for (const auto& [key, value] : header.entries)
    if (key == "training data" || key == "seed" || key == "machine" || key == "threads" || key == "device" || key == "kernels" || key == "versions") prepared.identity.add(key, value);
  const std::string fingerprint = std::to_string(dapt::WeightFolder(run.models.front()).fingerprint()), data = std::to_string(store.checksum());
  require_same_in_all("the fingerprint of " + run.models.front().string(), fingerprint);
  require_same_in_all("the checksum of the training data", data);
  prepared.identity.add("fingerprint of the base model", fingerprint);  // not its path: it may have been moved
  prepared.identity.add("dtype", run.dtype);
  prepared.identity.add("quantize", run.quantize);
  if (packing.bos.has_value() != tokenizer.special_tokens().adds_bos) prepared.identity.add("--bos", packing.bos ? "yes" : "no");
  prepared.identity.add("processes", std::to_string(processes() == nullptr ? 1 : processes()->size()));
  prepared.identity.add("checksum of the training data", data);
  const std::string first = of_the_first_process(nlohmann::json(prepared.identity.entries).dump());  // what a checkpoint holds: the others' machines may be others
  nlohmann::json::parse(first).get_to(prepared.identity.entries);
  return prepared;
}

dapt::GradientCheckpointing checkpointing(const RunOptions& run) {
  const std::string& name = run.gradient_checkpointing;  // a flag of a configuration file is true or false
  return dapt::GradientCheckpointing::from_name(name == "true" ? "layers" : name == "false" ? "none" : name);
}

dapt::LlamaOptions llama_options(const RunOptions& run) {
  return {.gradient_checkpointing = checkpointing(run), .quantization = dapt::quantization_from_name(run.quantize), .devices = dapt::devices_from_names(run.device)};
}

dapt::Llama load_base(const RunOptions& run) {
  release_freed_memory();  // a setting's peak begins with what is held: without this, with what the one before it left
  return dapt::load_llama(run.models.front(), dapt::dtype_from_name(run.dtype), llama_options(run));
}

dapt::StoredStream open_stream(const RunOptions& run, const BudgetOptions& budget, const dapt::StoredSequences& sequences) {
  return dapt::StoredStream(sequences, {.micro_batch_size = budget.micro_batch_size, .seed = run.seed});
}

void print_header(std::ostream& out, const dapt::RunHeader& header) {
  for (const auto& [key, value] : header.entries) out << key << ": " << value << '\n';
  out.flush();
}

void print_result(std::ostream& out, const dapt::SettingResult& result) {
  const dapt::TrainReport& train = result.train;
  out << result.name << " (" << result.description << ")";
  if (!train.stopped_because.empty()) {
    out << ": " << train.steps << " steps, " << (train.skipped > 0 ? std::to_string(train.skipped) + " skipped, " : "") << train.tokens << " tokens, loss " << train.first_loss << " -> " << train.last_loss << ", " << train.seconds << " s (optimizer "
        << train.optimizer_seconds << " s), peak memory " << train.peak_memory_bytes / (1 << 20) << " MiB";
    std::string by_device;
    for (const auto& [device, bytes] : train.device_peak_memory_bytes) by_device += (by_device.empty() ? "" : ", ") + device + ' ' + std::to_string(bytes / (1 << 20));
    out << (by_device.empty() ? "" : " (" + by_device + ")") << ", ended by: " << train.stopped_because;
  }
  out << '\n';
  const auto by_rank = [&](const char* what, const std::vector<std::int64_t>& bytes) {
    if (bytes.empty()) return;
    out << "  " << what;
    for (std::size_t rank = 0; rank < bytes.size(); ++rank) out << (rank == 0 ? ": " : ", ") << bytes[rank] << " bytes on rank " << rank;
    out << '\n';
  };
  by_rank("optimizer state", train.rank_state_bytes);
  by_rank("weights at once", train.rank_weight_bytes);
  for (const dapt::MetricValue& value : result.metrics) out << "  " << value.name << ' ' << value.value << '\n';
  out.flush();
}

}  // namespace dapt_program
