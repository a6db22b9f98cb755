#pragma once

/// @file
/// A process group of torch.distributed as the exchange that the library asks for.

#include "unit.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

namespace dp_torch {

/// The process group as a bootstrap: bytes in CPU tensors, so it needs a CPU backend (gloo).
class group_exchange {
public:
  group_exchange(const std::string& name, double timeout_s)
      : group_{c10d::resolve_process_group(name)}, timeout_{static_cast<std::int64_t>(timeout_s *
                                                                                      1000)} {}

  [[nodiscard]] exchange functions() {
    const auto gather = [](void* self, const void* mine, void* all, std::size_t bytes) {
      return static_cast<group_exchange*>(self)->all_gather(mine, all, bytes);
    };
    const auto barrier = [](void* self) {
      const char mine = 0;
      auto& group = *static_cast<group_exchange*>(self);
      std::vector<char> all(static_cast<std::size_t>(group.group_->getSize()));
      return group.all_gather(&mine, all.data(), 1);
    };
    return {group_->getRank(), group_->getSize(), this, gather, barrier};
  }
  /// What the process group threw last; empty after it was asked for.
  [[nodiscard]] std::string failure() { return std::exchange(failure_, {}); }

private:
  int all_gather(const void* mine, void* all, std::size_t bytes) noexcept {
    try {
      const auto count = static_cast<std::int64_t>(bytes);
      std::vector<at::Tensor> in{at::empty({count}, at::kByte)};
      std::vector<std::vector<at::Tensor>> out(1);
      for (int r = 0; r < group_->getSize(); ++r) out[0].push_back(at::empty({count}, at::kByte));
      std::memcpy(in[0].data_ptr(), mine, bytes);
      c10d::AllgatherOptions options;
      options.timeout = timeout_;
      group_->allgather(out, in, options)->wait(timeout_);
      for (std::size_t r = 0; r < out[0].size(); ++r)
        std::memcpy(static_cast<std::byte*>(all) + r * bytes, out[0][r].data_ptr(), bytes);
      return 0;
    } catch (const std::exception& error) {
      failure_ = error.what();
      return 1;
    }
  }

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  std::chrono::milliseconds timeout_;
  std::string failure_;
};

} // namespace dp_torch
