// dapt: domain-adaptive pretraining from the command line, on the library and nothing else. docs/reference/command-line.md
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <system_error>

#include <CLI/CLI.hpp>

#include <dapt/core/instruction_set.hpp>
#include <dapt/core/keep_freed_memory.hpp>
#include <dapt/core/product_choice.hpp>
#include <dapt/dist/process_group.hpp>

#include "commands.hpp"
#include "error_message.hpp"
#include "processes.hpp"
#include "toml_config.hpp"

namespace {

/// Of a pipe one of several processes would get the text, and the others none, which says nothing wrong. One that is not there is told by who reads it.
std::string whole_for_all(const std::string& config) {
  const auto rendezvous = dapt::rendezvous_from_environment();
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(config, error);
  if (!rendezvous || rendezvous->size == 1 || !std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) return "";
  return config + " is no file, and several processes cannot each read all of it; write it to a file";
}

}  // namespace

int main(int argc, char** argv) {
  dapt::make_products_independent_of_the_batch();
  CLI::App app("Continues the pretraining of a language model on the text of one field, and tells whether it learned the field.", "dapt");
  app.require_subcommand(1);
  app.fallthrough();
  app.config_formatter(std::make_shared<dapt_program::TomlConfig>(&app));
  app.set_config("--config", "", "TOML file with the options of a command under [COMMAND]; the command line wins")->check(whole_for_all, "");
  dapt_program::add_check(app);
  dapt_program::add_compare(app);
  dapt_program::add_train(app);
  dapt_program::add_eval(app);
  dapt_program::add_merge(app);
  dapt_program::add_filter(app);
  dapt_program::add_tokenize(app);
  dapt_program::add_launch(app, std::span<char* const>(argv, static_cast<std::size_t>(argc)));
  dapt::keep_freed_memory();  // of the C library's allocator; tcmalloc keeps it anyway
  try {
    dapt::instruction_set();  // wrong values of DAPT_ISA and the like, before any work
    dapt::fp32_products();
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    const auto* ranks = dapt_program::processes();
    const std::string message = dapt_program::message_of(error);
    if (ranks == nullptr) std::fprintf(stderr, "dapt: error: %s\n", message.c_str());
    else std::fprintf(stderr, "dapt, rank %d: error: %s\n", ranks->rank(), message.c_str());
    dapt_program::leave_processes(message);
    return 1;
  }
  dapt_program::leave_processes("");
  return 0;
}
