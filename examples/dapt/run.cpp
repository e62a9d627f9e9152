#include "run.hpp"

#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include <dlfcn.h>
#include <unistd.h>
#include <zlib.h>

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <nlohmann/json.hpp>
#include <torch/headeronly/version.h>

#include <dapt/core/device.hpp>
#include <dapt/core/error.hpp>
#include <dapt/core/precision.hpp>
#include <dapt/io/hf_model.hpp>
#include <dapt/kernels/instruction_set.hpp>
#include <dapt/version.hpp>

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

std::string version_of_dapt() {
  return std::to_string(DAPT_VERSION_MAJOR) + "." + std::to_string(DAPT_VERSION_MINOR) + "." + std::to_string(DAPT_VERSION_PATCH);
}

/// "the end-of-document token" as a reader knows it: its text cannot be had by decoding, which leaves special tokens out.
std::string separator(const RunOptions& run, const dapt::AnyTokenizer& tokenizer) {
  if (!run.packing.eos) return "none";
  return "end-of-document token, id " + std::to_string(*tokenizer.special_tokens().end_of_document);
}

/// What stands where one document ends and the next begins, for the first such place that lies inside a sequence: text, ids, text.
std::string first_border(const Run& run, bool separated) {
  const dapt::SpecialTokens& special = run.tokenizer.special_tokens();
  constexpr std::size_t shown = 8;
  for (const dapt::PackedSequence& sequence : run.sequences) {
    const std::vector<std::int32_t>& ids = sequence.input_ids;
    for (std::size_t at = 1; at < ids.size(); ++at) {
      const bool after_separator = separated && ids[at - 1] == special.end_of_document, at_bos = special.adds_bos && ids[at] == special.bos;
      if (!after_separator && !at_bos && sequence.document_starts[at] != static_cast<std::int32_t>(at)) continue;
      const std::size_t end = after_separator ? at - 1 : at, next = at_bos ? at + 1 : at, begin = end - std::min(end, shown), stop = std::min(ids.size(), next + shown);
      const auto text = [&](std::size_t from, std::size_t to) {
        return nlohmann::json(run.tokenizer.decode(std::vector(ids.begin() + static_cast<std::ptrdiff_t>(from), ids.begin() + static_cast<std::ptrdiff_t>(to)))).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      };
      std::string between;
      for (std::size_t i = end; i < next; ++i) between += ' ' + std::to_string(ids[i]);
      return text(begin, end) + (between.empty() ? " | " : " [" + between.substr(1) + "] ") + text(next, stop);
    }
  }
  return "none inside a sequence";
}

std::uint64_t checksum(const std::vector<dapt::PackedSequence>& sequences) {
  uLong crc = crc32(0, nullptr, 0);
  for (const dapt::PackedSequence& sequence : sequences)
    for (const auto* column : {&sequence.input_ids, &sequence.labels, &sequence.document_starts})
      crc = crc32_z(crc, reinterpret_cast<const Bytef*>(column->data()), column->size() * sizeof(column->front()));
  return crc;
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

}  // namespace

void make_folder(const fs::path& folder) {
  dapt::require(!folder.empty(), "--out is missing: the folder to write to");
  std::error_code error;
  fs::create_directories(folder, error);
  dapt::require(!error, folder.string(), ": cannot make the folder: ", error.message());
  dapt::require(access(folder.c_str(), W_OK) == 0, folder.string(), ": cannot be written to");
}

void prepare_process(RunOptions& run) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  at::set_num_threads(run.threads > 0 ? run.threads : std::max(1, cores / processes_on_this_machine()));
  const at::Device device = dapt::device_from_name(run.device);
  dapt::require(device.is_cpu() || processes() == nullptr, "--device ", run.device, " is for one process; several were started");
  if (run.dtype == "auto" && !device.is_cpu()) {
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

Run prepare_run(const RunOptions& run) {
  outlive_the_terminal();
  make_folder(run.out);
  Run prepared{.tokenizer = dapt::load_tokenizer(run.models.front())};
  KeptPages kept = read_and_filter(run.pages, evaluation_items(run.tasks), &prepared.tokenizer, run.threads);
  prepared.corpus = std::move(kept.report);
  print_summary(std::cerr, prepared.corpus);
  auto [train, held_out] = split_held_out(std::move(kept.pages), run.held_out);
  prepared.held_out = std::move(held_out);
  prepared.sequences = pack_pages(train, prepared.tokenizer, run.packing, run.threads, prepared.packed);

  dapt::RunHeader& header = prepared.header;
  const dapt::PackSummary& packed = prepared.packed;
  header.add("model", run.models.front().string());
  header.add("dtype of weights and compute", std::string(dapt::dtype_name(dapt::dtype_from_name(run.dtype))) + run.dtype_choice);
  header.add("frozen base weights", run.quantize == "none" ? "not quantised" : describe(dapt::quantization_from_name(run.quantize)) + "; embedding, head and norms are not quantised");
  header.add("pages", run.pages.pages.string());
  describe(header, prepared.corpus);
  header.add("training data", std::to_string(train.size()) + " pages, " + std::to_string(packed.source_tokens) + " tokens in " + std::to_string(packed.sequences) +
                                  " sequences of " + std::to_string(run.packing.max_length) + ", documents " +
                                  (run.packing.isolate_documents ? "isolated from each other" : "joined") + ", between them: " + separator(run, prepared.tokenizer));
  header.add("first border of documents", first_border(prepared, run.packing.eos));
  header.add("held-out pages", std::to_string(prepared.held_out.size()));
  header.add("seed", std::to_string(run.seed));
  header.add("gradient checkpointing", checkpointing(run).name());
  const at::Device device = dapt::device_from_name(run.device);
  header.add("machine", processor() + ", " + std::to_string(at::get_num_threads()) + " threads");
  header.add("device", dapt::describe_device(device));
  header.add("memory allocator", memory_allocator());
  for (const std::string& line : dapt::kernel_report(device)) header.add("kernels", line);
  header.add("versions", "dapt " + version_of_dapt() + ", LibTorch " + TORCH_VERSION);
  for (const auto& [key, value] : header.entries)
    if (key == "model" || key == "training data" || key == "seed" || key == "machine" || key == "device" || key == "kernels" || key == "versions") prepared.identity.add(key, value);
  prepared.identity.add("dtype", run.dtype);
  prepared.identity.add("quantize", run.quantize);
  prepared.identity.add("processes", std::to_string(processes() == nullptr ? 1 : processes()->size()));
  prepared.identity.add("checksum of the training data", std::to_string(checksum(prepared.sequences)));
  return prepared;
}

dapt::GradientCheckpointing checkpointing(const RunOptions& run) {
  const std::string& name = run.gradient_checkpointing;  // a flag of a configuration file is true or false
  return dapt::GradientCheckpointing::from_name(name == "true" ? "layers" : name == "false" ? "none" : name);
}

dapt::LlamaOptions llama_options(const RunOptions& run) {
  return {.gradient_checkpointing = checkpointing(run), .quantization = dapt::quantization_from_name(run.quantize), .device = dapt::device_from_name(run.device)};
}

dapt::Llama load_base(const RunOptions& run) { return dapt::load_llama(run.models.front(), dapt::dtype_from_name(run.dtype), llama_options(run)); }

dapt::PackedStream open_stream(const RunOptions& run, const BudgetOptions& budget, const std::vector<dapt::PackedSequence>& sequences) {
  return dapt::PackedStream(sequences, {.micro_batch_size = budget.micro_batch_size, .seed = run.seed});
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
        << train.optimizer_seconds << " s), peak memory " << train.peak_memory_bytes / (1 << 20) << " MiB, ended by: " << train.stopped_because;
  }
  out << '\n';
  for (const dapt::MetricValue& value : result.metrics) out << "  " << value.name << ' ' << value.value << '\n';
  out.flush();
}

}  // namespace dapt_program
