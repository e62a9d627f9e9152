#include <dapt/dapt.hpp>

int major_version_seen_by_b();

int main() { return major_version_seen_by_b() == DAPT_VERSION_MAJOR ? 0 : 1; }
