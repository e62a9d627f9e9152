// The processes that run this command together, where dapt launch, torchrun, srun or mpirun started several.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include <dapt/core/ranks.hpp>

#include "options.hpp"

namespace dapt_program {

/// Waits for the others, once; from then on only the first process writes messages, and of --device cuda each has a GPU of its own. Nothing where this process was started alone.
void meet_processes(RunOptions& run);

/// Null where this process is alone.
dapt::Ranks* processes();
inline bool is_first_process() { return processes() == nullptr || processes()->rank() == 0; }
int processes_on_this_machine();

/// Standard error for progress; nowhere in all processes but the first.
std::FILE* message_stream();

/// Whether any of them was asked to stop; then all are. All call it alike.
bool any_stops();

/// The numbers of all added up. All call it alike.
std::vector<std::int64_t> sum_over_processes(std::vector<std::int64_t> numbers);

/// The first process's text. All call it alike.
std::string of_the_first_process(const std::string& text);

/// The first process does `work`; the others wait until it is done, however long that takes: all that may be written for longer than --rank-timeout. All call it alike.
void after_first(const std::function<void()>& work);

/// Throws in all processes where one has another `value` than the first; `what` has it. All call it alike.
void require_same_in_all(const std::string& what, const std::string& value);

/// Throws where several processes were started for a command that one does.
void require_one_process(const std::string& command);

/// Last of all. An empty reason: the work is done. Else the others are told why this one ends, and the process ends here: what waits for a rank that is gone is not waited for.
void leave_processes(const std::string& why);

}  // namespace dapt_program
