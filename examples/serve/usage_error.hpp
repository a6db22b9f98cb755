#pragma once

/// @file
/// The two ways in which an example declines to run.

#include <stdexcept>

namespace serve {

/// Text that goes to the user, with exit code 2.
struct usage_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What was asked for needs GPUs that are not here: exit code 77, which test drivers show as
/// skipped.
struct too_few_gpus : std::runtime_error {
  using std::runtime_error::runtime_error;
};

} // namespace serve
