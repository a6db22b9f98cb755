#pragma once

/// @file
/// From the words of unit.hpp to the library's. Only for the units that include the library.

#include "unit.hpp"

#include <dpgather/device/cuda_runtime.cuh>
#include <dpgather/element.hpp>
#include <dpgather/gather_config.hpp>
#include <dpgather/ladder.hpp>
#include <dpgather/throw.hpp>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dp_torch {

namespace dg = dpgather;

inline dg::element element_of(scalar type, const char* where) {
  switch (type) {
  case scalar::u8:
    return dg::element::u8;
  case scalar::i32:
    return dg::element::i32;
  case scalar::i64:
    return dg::element::i64;
  case scalar::f16:
    return dg::element::f16;
  case scalar::bf16:
    return dg::element::bf16;
  case scalar::f32:
    return dg::element::f32;
  case scalar::f64:
    return dg::element::f64;
  case scalar::other:
    break;
  }
  throw dg::error{
      {.code = dg::errc::unsupported_type, .about = dg::subject::element, .where = where}};
}

/// A count that a Python integer may not fit; what is out of range is the library's to say.
inline std::int32_t narrow(std::int64_t count) {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(count, INT32_MIN, INT32_MAX));
}

inline dg::gather_config config_of(const exchange& ranks, const settings& asked) {
  dg::gather_config config;
  config.topology = {.dp_size = ranks.size, .dp_rank = ranks.rank};
  config.element = element_of(asked.type, "DpGather");
  config.row_bytes = static_cast<std::size_t>(std::max<std::int64_t>(asked.hidden, 0)) *
                     dg::size_of(config.element);
  config.max_rows_per_rank = narrow(asked.max_rows);
  if (asked.sizes.empty()) {
    config.ladder = dg::filtered(dg::ladder::sglang<4096>::sizes(), 1, config.max_rows_per_rank);
    config.ladder.append(config.max_rows_per_rank);
  } else {
    std::vector<std::int32_t> stated;
    for (const std::int64_t size : asked.sizes) stated.push_back(narrow(size));
    config.ladder = dg::value_or_throw(dg::bucket_list::make(stated));
  }
  return config;
}

/// The library's runtime looks at the thread's current device, and PyTorch's user may have chosen
/// another one.
class on_device {
public:
  explicit on_device(int device) {
    dg::throw_if_failed(dg::cuda_status(cudaGetDevice(&before_), "cudaGetDevice"));
    if (before_ != device)
      dg::throw_if_failed(dg::cuda_status(cudaSetDevice(device), "cudaSetDevice"));
    changed_ = before_ != device;
  }
  on_device(const on_device&) = delete;
  on_device& operator=(const on_device&) = delete;
  ~on_device() {
    if (changed_) (void)cudaSetDevice(before_);
  }

private:
  int before_ = 0;
  bool changed_ = false;
};

} // namespace dp_torch
