// DpGather itself refuses options that do not go together, alias replaced in a derived struct or
// not.
// positive-control: -DOK
// expect: dpgather: mode::all_gather needs equal row counts; use padding::max_len, or mode::all_reduce with padding::sum_len
// expect-count: 1 dpgather: mode::all_gather needs equal row counts
#include <dpgather/dpgather.hpp>

namespace dg = dpgather;
struct mine : dg::policy<dg::mode::all_gather, dg::padding::max_len> {
#ifndef OK
  using padding_type = dg::padding::none;
#endif
};

std::size_t bytes_of(const dg::gather_config& config) {
  return sizeof(dg::DpGather<mine>) + config.row_bytes;
}
