// The one place where the version stands; CMake reads it from here.
#pragma once

#define DAPT_VERSION_MAJOR 0
#define DAPT_VERSION_MINOR 1
#define DAPT_VERSION_PATCH 0
