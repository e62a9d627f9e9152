// Llama and its kin, whole: the model (llama_model.hpp), its answers (llama_generation.hpp) and the memory it will need (llama_memory.hpp).
#pragma once

#include <dapt/concepts/causal_lm.hpp>
#include <dapt/models/llama_generation.hpp>
#include <dapt/models/llama_memory.hpp>
#include <dapt/models/llama_model.hpp>

namespace dapt {
static_assert(check_causal_lm<Llama>() && GeneratingLM<Llama> && PartedLM<Llama>);
}
