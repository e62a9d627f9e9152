#include "evaluation_lines.hpp"

#include <cstdint>
#include <fstream>
#include <iostream>
#include <utility>

#include <nlohmann/json.hpp>

#include <dapt/core/error.hpp>
#include <dapt/core/json.hpp>
#include <dapt/core/json_number.hpp>

namespace dapt_program {
namespace {

constexpr const char *step_key = "step", *checksums_key = "checksums";

}  // namespace

std::string line_of(const dapt::EvaluationRecord& evaluation) {
  nlohmann::ordered_json json{{step_key, evaluation.step}};
  for (const auto& [metric, value] : evaluation.values) json[metric] = value;
  json[checksums_key] = evaluation.checksums;
  return json.dump() + "\n";
}

std::optional<dapt::EvaluationRecord> evaluation_from(const std::string& line) {
  try {
    const auto json = dapt::detail::parse_json(line, "");
    if (!json.is_object() || !json.contains(step_key)) return std::nullopt;
    dapt::EvaluationRecord evaluation{.step = dapt::detail::whole_number<std::int64_t>(json[step_key], step_key), .values = {}, .checksums = {}};
    for (const auto& [key, value] : json.items()) {
      if (key != step_key && (value.is_number() || value.is_null())) evaluation.values[key] = dapt::detail::number_or_nan(value);
    }
    if (const auto checksums = json.find(checksums_key); checksums != json.end() && checksums->is_object())
      for (const auto& [metric, checksum] : checksums->items())
        if (checksum.is_string()) evaluation.checksums[metric] = checksum.get<std::string>();
    if (evaluation.step < 0 || evaluation.values.empty()) return std::nullopt;
    return evaluation;
  } catch (const dapt::Error&) {
    return std::nullopt;
  }
}

std::vector<dapt::EvaluationRecord> read_evaluations(const std::filesystem::path& file) {
  std::vector<dapt::EvaluationRecord> evaluations;
  std::int64_t damaged = 0;
  std::ifstream in(file, std::ios::binary);
  for (std::string line; std::getline(in, line) && !in.eof();) {  // the last one has its end, unless the run was killed while it wrote it
    if (auto evaluation = evaluation_from(line)) evaluations.push_back(std::move(*evaluation));
    else ++damaged;
  }
  if (damaged > 0) std::cerr << file.string() << ": " << damaged << " lines are no evaluations and were left out\n";
  return evaluations;
}

}  // namespace dapt_program
