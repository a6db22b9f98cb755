#pragma once

/// @file
/// Where a rank's tensors lie and what its work is ordered on. `place<Stream>` is all in which
/// ranks on the host and ranks on GPUs differ, so that a step is one text for both: here the host,
/// gpu_place.cuh for GPUs.
///
/// A place has
/// - `comm_tag`, the communicator of its policies; `captures`, whether steps in graphs are captured
///   (else they run as they are, with a graph's shapes); `graphs`, which holds them;
/// - `enter(rank)`: makes the rank's device current in the calling thread;
/// - `array<T>`: memory for kernels; `mirrored<T>`: the same with a twin that the host can read;
/// - `poison(data, count, stream)`: fills with what no step leaves;
/// - `link`: communicator, stream and wait of one rank.
/// Making things throws `dpgather::error`, using them answers a status.

#include "rank_group.hpp"

#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/device/executor.hpp>
#include <dpgather/options.hpp>
#include <dpgather/status.hpp>
#include <dpgather/throw.hpp>
#include <dpgather/topology.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace serve {

namespace dg = dpgather;

template <class Stream>
struct place;

template <>
struct place<dg::host_stream> {
  using comm_tag = dg::comm::host;
  static constexpr bool captures = false;
  struct graphs {};

  static void enter(std::int32_t) {}

  template <class T>
  using array = std::vector<T>;

  /// Its own twin.
  template <class T>
  class mirrored {
  public:
    explicit mirrored(std::size_t count) : values_(count) {}
    [[nodiscard]] T* data() noexcept { return values_.data(); }
    [[nodiscard]] std::span<T> span() noexcept { return values_; }
    [[nodiscard]] std::span<T> on_host() noexcept { return values_; }
    [[nodiscard]] dg::status upload(std::size_t, dg::host_stream) noexcept { return {}; }
    [[nodiscard]] dg::status download(std::size_t, dg::host_stream) noexcept { return {}; }

  private:
    std::vector<T> values_;
  };

  template <class T>
  [[nodiscard]] static dg::status poison(T* data, std::size_t count, dg::host_stream) noexcept {
    std::memset(data, 0xff, count * sizeof(T)); // NaN where it holds floats
    return {};
  }

  class link {
  public:
    link(rank_group& ranks, const dg::topology&) : communicator_{of_threads(ranks)} {}
    [[nodiscard]] dg::host_communicator communicator() noexcept { return communicator_; }
    [[nodiscard]] dg::host_stream stream() const noexcept { return {}; }
    [[nodiscard]] dg::status wait() noexcept { return {}; } // calls have finished when they return
    [[nodiscard]] dg::status close() noexcept { return {}; }

  private:
    [[nodiscard]] static const dg::host_communicator& of_threads(const rank_group& ranks) {
      if (ranks.threads() == nullptr)
        throw dg::error{{.code = dg::errc::bad_config,
                         .about = dg::subject::world,
                         .rank = ranks.rank(),
                         .value_name = "host ranks are threads of one process",
                         .where = "host_place"}};
      return *ranks.threads();
    }
    dg::host_communicator communicator_;
  };
};

} // namespace serve
