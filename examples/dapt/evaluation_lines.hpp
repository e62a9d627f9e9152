// The lines of evaluations.jsonl, and of the evaluation.json of the best weights: what was measured after a step.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <dapt/core/step_record.hpp>

namespace dapt_program {

std::string line_of(const dapt::EvaluationRecord& evaluation);

/// Nothing of a line that is no evaluation.
std::optional<dapt::EvaluationRecord> evaluation_from(const std::string& line);

/// What the evaluations.jsonl of a setting's folder holds; nothing where there is none. Lines that are no evaluations are left out and counted, on standard error.
std::vector<dapt::EvaluationRecord> read_evaluations(const std::filesystem::path& file);

}  // namespace dapt_program
