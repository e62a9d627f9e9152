#include <dapt/dapt.hpp>

int major_version_seen_by_b() { return DAPT_VERSION_MAJOR; }
