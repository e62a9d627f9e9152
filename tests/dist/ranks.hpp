// Runs a hidden test case of this executable in several processes, as a launcher would.
#pragma once

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace ranks {

inline int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ::bind(socket, reinterpret_cast<sockaddr*>(&address), size);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(socket);
  return ntohs(address.sin_port);
}

/// Standard error of each process goes to FOLDER/err.RANK.
inline std::vector<pid_t> start(int count, const std::string& test_case, const std::filesystem::path& folder, const std::map<std::string, std::string>& variables = {}) {
  std::filesystem::create_directories(folder);
  const std::string port = std::to_string(free_port());
  std::vector<pid_t> processes;
  for (int rank = 0; rank < count; ++rank) {
    std::map<std::string, std::string> own = {{"RANK", std::to_string(rank)}, {"WORLD_SIZE", std::to_string(count)}, {"LOCAL_RANK", std::to_string(rank)},
                                              {"LOCAL_WORLD_SIZE", std::to_string(count)}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", port},
                                              {"DAPT_TEST_FOLDER", folder.string()}, {"OMP_NUM_THREADS", "1"}};
    for (const auto& [name, value] : variables) own[name] = value;
    std::vector<std::string> environment;
    for (char** entry = environ; *entry != nullptr; ++entry)
      if (!own.contains(std::string(*entry).substr(0, std::string(*entry).find('=')))) environment.emplace_back(*entry);
    for (const auto& [name, value] : own) environment.push_back(name + "=" + value);
    std::vector<char*> pointers;
    for (std::string& entry : environment) pointers.push_back(entry.data());
    pointers.push_back(nullptr);
    std::string program = "/proc/self/exe", name = test_case;
    char* arguments[] = {program.data(), name.data(), nullptr};
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, (folder / ("out." + std::to_string(rank))).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    posix_spawn_file_actions_addopen(&files, 2, (folder / ("err." + std::to_string(rank))).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    pid_t process = 0;
    if (posix_spawn(&process, std::filesystem::read_symlink("/proc/self/exe").c_str(), &files, nullptr, arguments, pointers.data()) != 0) std::abort();
    posix_spawn_file_actions_destroy(&files);
    processes.push_back(process);
  }
  return processes;
}

/// The exit status of each, or -1 where it was still there after `seconds` and was killed.
inline std::vector<int> wait(const std::vector<pid_t>& processes, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::vector<int> statuses(processes.size(), -1);
  std::vector<bool> ended(processes.size());
  for (std::size_t left = processes.size(); left > 0;) {
    const bool late = std::chrono::steady_clock::now() > end;
    for (std::size_t i = 0; i < processes.size(); ++i) {
      if (ended[i]) continue;
      int status = 0;
      if (late) kill(processes[i], SIGKILL);
      if (waitpid(processes[i], &status, late ? 0 : WNOHANG) != processes[i]) continue;
      ended[i] = true;
      --left;
      if (!late) statuses[i] = status;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return statuses;
}

inline std::string read(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

}  // namespace ranks
