// The subcommands. Each adds its options to its part of the command line and gives what is to be done once they are read.
#pragma once

#include <functional>
#include <span>

#include <CLI/CLI.hpp>

namespace dapt_program {

void add_check(CLI::App& app);
void add_compare(CLI::App& app);
void add_train(CLI::App& app);
void add_eval(CLI::App& app);
void add_merge(CLI::App& app);
void add_filter(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_launch(CLI::App& app, std::span<char* const> arguments);  // all of main's

}  // namespace dapt_program
