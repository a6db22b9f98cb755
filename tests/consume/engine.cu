// An engine that borrows its communicator to the library: it must compile, link and refuse.
#include <dpgather/dpgather.cuh>

#include <cstdio>

namespace dg = dpgather;

struct decode : dg::rebind_comm<dg::pr8278, dg::comm::nccl> {};

int main() {
  dg::nccl_world world{{.dp_size = 2}, nullptr};
  if (world.check().code != dg::errc::null_pointer) return 1;
  dg::gather_config config;
  config.topology = world.topology();
  config.row_bytes = 128;
  config.max_rows_per_rank = 8;
  config.ladder.append(8);
  dg::DpGather<decode> dp{dg::nccl_communicator{world}, config};
  std::puts(dp.check().message().c_str());
  return dp.check().ok() ? 2 : 0;
}
