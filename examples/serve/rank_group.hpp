#pragma once

/// @file
/// The ranks of a run, whatever they are: threads of this process, or processes of this host.

#include <dpgather/bootstrap.hpp>
#include <dpgather/comm/host_communicator.hpp>
#include <dpgather/comm/unix_socket_bootstrap.hpp>
#include <dpgather/status.hpp>

#include <cstddef>
#include <cstdint>

namespace serve {

namespace dg = dpgather;

/// One rank's bootstrap, with one type for both. Borrows what it is made of.
///
/// Ranks on several hosts are no third case here: an engine has an exchange that reaches them
/// (MPI_Allgather and MPI_Barrier, a store of torch.distributed) and hands it to the library as
/// `dpgather::callback_bootstrap{rank, size, &context, all_gather, barrier}`. That object goes
/// wherever this class goes: to `DpGather::agree` and to `nccl_owner`, which broadcasts NCCL's id
/// over it; and only the GPU's number is then the rank on its host, not in the world.
class rank_group {
public:
  explicit rank_group(dg::host_communicator& threads) noexcept : threads_{&threads} {}
  explicit rank_group(dg::unix_socket_bootstrap& processes) noexcept : processes_{&processes} {}

  [[nodiscard]] std::int32_t rank() const noexcept {
    return threads_ != nullptr ? threads_->rank() : processes_->rank();
  }
  [[nodiscard]] std::int32_t size() const noexcept {
    return threads_ != nullptr ? threads_->size() : processes_->size();
  }
  [[nodiscard]] dg::status all_gather(const void* mine, void* all, std::size_t bytes) noexcept {
    return threads_ != nullptr ? threads_->all_gather(mine, all, bytes)
                               : processes_->all_gather(mine, all, bytes);
  }
  [[nodiscard]] dg::status barrier() noexcept {
    return threads_ != nullptr ? threads_->barrier() : processes_->barrier();
  }

  /// The communicator of ranks that are threads; null where they are processes.
  [[nodiscard]] const dg::host_communicator* threads() const noexcept { return threads_; }

private:
  dg::host_communicator* threads_ = nullptr;
  dg::unix_socket_bootstrap* processes_ = nullptr;
};

static_assert(dg::bootstrap<rank_group>);

} // namespace serve
