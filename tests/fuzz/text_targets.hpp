// The fuzz targets that need no tensors, which compile fast.
#pragma once

#include "targets/encoder_config.hpp"
#include "targets/evaluations.hpp"
#include "targets/event_file.hpp"
#include "targets/pages.hpp"
#include "targets/score_file.hpp"
#include "targets/score_journal.hpp"
#include "targets/sentencepiece.hpp"
#include "targets/sentencepiece_folder.hpp"
#include "targets/setting_result.hpp"
#include "targets/step_log.hpp"
#include "targets/task_files.hpp"
#include "targets/tensor_pickle.hpp"
#include "targets/token_store.hpp"
#include "targets/tokenizer_config.hpp"
#include "targets/tokenizer_json.hpp"
#include "targets/toml_options.hpp"
#include "targets/word_lists.hpp"

#include "target.hpp"

namespace dapt::fuzz {

inline constexpr Target text_targets[] = {{"encoder_config", encoder_config}, {"evaluations", evaluations}, {"event_file", event_file}, {"pages", pages},
                                          {"score_file", score_file},         {"score_journal", score_journal}, {"sentencepiece", sentencepiece},
                                          {"sentencepiece_folder", sentencepiece_folder}, {"setting_result", setting_result}, {"step_log", step_log},
                                          {"task_files", task_files},         {"tensor_pickle", tensor_pickle},
                                          {"token_store", token_store},       {"tokenizer_config", tokenizer_config}, {"tokenizer_json", tokenizer_json},
                                          {"toml_options", toml_options},     {"word_lists", word_lists}};

}  // namespace dapt::fuzz
