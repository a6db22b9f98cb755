/// @file
/// The two classes that Python sees, registered with PyTorch: no Python header, so one build serves
/// every Python. Knows nothing of the library but unit.hpp.

#include "group_exchange.hpp"
#include "unit.hpp"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/custom_class.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using dp_torch::group_exchange;

dp_torch::scalar scalar_of(at::ScalarType type) {
  switch (type) {
  case at::kByte:
    return dp_torch::scalar::u8;
  case at::kInt:
    return dp_torch::scalar::i32;
  case at::kLong:
    return dp_torch::scalar::i64;
  case at::kHalf:
    return dp_torch::scalar::f16;
  case at::kBFloat16:
    return dp_torch::scalar::bf16;
  case at::kFloat:
    return dp_torch::scalar::f32;
  case at::kDouble:
    return dp_torch::scalar::f64;
  default:
    return dp_torch::scalar::other;
  }
}

dp_torch::tensor described(const at::Tensor& from) {
  TORCH_CHECK(from.defined() && from.layout() == at::kStrided &&
                  (from.is_cuda() || from.is_cpu()) && from.dim() <= 2,
              "dpgather: a dense tensor of at most two dimensions on a CPU or a GPU is needed");
  dp_torch::tensor out;
  out.data = from.data_ptr();
  out.type = scalar_of(from.scalar_type());
  out.device = from.is_cuda() ? from.get_device() : -1;
  out.dimensions = static_cast<int>(from.dim());
  out.rows = from.dim() > 0 ? from.size(0) : 1;
  out.columns = from.dim() > 1 ? from.size(1) : 1;
  out.row_stride = from.dim() > 0 ? from.stride(0) : 1;
  out.column_stride = from.dim() > 1 ? from.stride(1) : 1;
  return out;
}

at::Tensor bytes_on(int device, std::size_t bytes) {
  return at::empty({static_cast<std::int64_t>(bytes)},
                   at::TensorOptions{}.dtype(at::kByte).device(
                       at::kCUDA, static_cast<c10::DeviceIndex>(device)));
}

/// One rank's channel. Tensors that it hands out are views of its arena and keep it alive.
class DpGather : public torch::CustomClassHolder {
public:
  /// Collective over the process group.
  DpGather(const std::string& group, std::int64_t hidden, at::ScalarType type,
           std::int64_t max_rows, std::vector<std::int64_t> sizes, std::int64_t device,
           bool clean_tails, double timeout_s)
      : exchange_{group, timeout_s}, type_{type}, hidden_{hidden} {
    asked_.device = static_cast<int>(device);
    asked_.type = scalar_of(type);
    asked_.hidden = hidden;
    asked_.max_rows = max_rows;
    asked_.sizes = std::move(sizes);
    asked_.clean_tails = clean_tails;
    asked_.timeout_ns = static_cast<std::int64_t>(timeout_s * 1e9);
    ranks_ = exchange_.functions().size;
    with_cause([&] {
      const c10::cuda::CUDAGuard here{static_cast<c10::DeviceIndex>(device)};
      workspace_ = bytes_on(asked_.device,
                            dp_torch::channel::workspace_bytes(exchange_.functions(), asked_));
      // Freed memory comes with other streams' work, and this is used on several.
      C10_CUDA_CHECK(cudaDeviceSynchronize());
      channel_ = dp_torch::channel::make(exchange_.functions(), asked_, workspace_.data_ptr(),
                                         workspace_.nbytes());
    });
  }

  /// See `step`: [in_graph, total, global_rows, offset, size, own_size].
  std::vector<std::int64_t> begin_step(std::int64_t rows, bool graph) {
    return listed(with_cause([&] { return channel_->begin(rows, graph, stream()); }));
  }
  std::vector<std::int64_t> begin_known_step(std::vector<std::int64_t> rows, bool graph) {
    return listed(with_cause([&] { return channel_->begin(rows, graph, stream()); }));
  }

  at::Tensor gather(const at::Tensor& local, std::int64_t size) {
    return view(channel_->gather(described(local), size, stream()));
  }
  at::Tensor combine_input(std::int64_t size, std::int64_t which) {
    return view(channel_->combine_input(size, static_cast<int>(which), stream()));
  }
  at::Tensor combine(const at::Tensor& addends, at::Tensor out, std::int64_t size) {
    channel_->combine(described(addends), described(out), size, stream());
    return out;
  }

  /// Real rows of each rank, first row of each and the total, total, as kernels read them.
  std::vector<at::Tensor> counts() {
    const dp_torch::live_counts live = channel_->counts();
    return {view(live.rows, {ranks_}, at::kInt), view(live.offsets, {ranks_ + 1}, at::kLong),
            view(live.total, {}, at::kLong)};
  }
  std::vector<std::int64_t> sizes() { return channel_->sizes(); }
  void check() { channel_->check(); }
  void wait(double timeout_s) {
    channel_->wait(stream(), static_cast<std::int64_t>(timeout_s * 1e9));
  }
  void set_timeout(double timeout_s) {
    channel_->set_timeout(static_cast<std::int64_t>(timeout_s * 1e9));
  }
  void close() {
    with_cause([&] { channel_->close(); });
  }

private:
  [[nodiscard]] cudaStream_t stream() const {
    return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(asked_.device)).stream();
  }
  [[nodiscard]] at::Tensor view(void* data, std::vector<std::int64_t> shape, at::ScalarType type) {
    // Held until the last view is gone, memory included.
    auto self = c10::intrusive_ptr<DpGather>::reclaim_copy(this);
    const c10::Device device{at::kCUDA, static_cast<c10::DeviceIndex>(asked_.device)};
    return at::from_blob(
        data, shape, [self](void*) {}, at::TensorOptions{}.dtype(type).device(device), device);
  }
  [[nodiscard]] at::Tensor view(const dp_torch::arena_rows& rows) {
    return view(rows.data, {rows.rows, hidden_}, type_);
  }
  [[nodiscard]] static std::vector<std::int64_t> listed(const dp_torch::step& s) {
    return {s.in_graph, s.total, s.global_rows, s.offset, s.size, s.own_size};
  }
  /// The library knows that the process group failed, the group knows why.
  template <class Call>
  std::invoke_result_t<Call> with_cause(Call call) {
    try {
      return call();
    } catch (const std::exception& error) {
      const std::string why = exchange_.failure();
      if (why.empty()) throw;
      throw std::runtime_error{std::string{error.what()} + ": " + why};
    }
  }

  group_exchange exchange_;
  dp_torch::settings asked_;
  at::ScalarType type_;
  std::int64_t hidden_;
  std::int64_t ranks_ = 1;
  at::Tensor workspace_;
  std::unique_ptr<dp_torch::channel> channel_; // goes before what it borrows
};

/// The tensors of a batch; holds them. Graphs that pad go before it.
class Batch : public torch::CustomClassHolder {
public:
  Batch(const std::vector<std::string>& kinds, std::vector<at::Tensor> tensors, std::int64_t device)
      : tensors_{std::move(tensors)}, device_{static_cast<int>(device)} {
    std::vector<dp_torch::batch_part> parts;
    for (std::size_t i = 0; i < tensors_.size(); ++i)
      parts.push_back({kinds.at(i), described(tensors_[i])});
    const c10::cuda::CUDAGuard here{static_cast<c10::DeviceIndex>(device)};
    workspace_ = bytes_on(device_, dp_torch::padded_tensors::workspace_bytes(parts));
    C10_CUDA_CHECK(cudaDeviceSynchronize()); // as in DpGather
    batch_ = dp_torch::padded_tensors::make(parts, workspace_.data_ptr(), workspace_.nbytes());
  }

  void pad(std::int64_t real, std::int64_t padded, std::int64_t tokens_per_request,
           const std::optional<at::Tensor>& live) {
    const c10::cuda::CUDAGuard here{static_cast<c10::DeviceIndex>(device_)};
    const std::int32_t* rows = nullptr;
    if (live) {
      TORCH_CHECK(live->is_cuda() && live->get_device() == device_ &&
                      live->scalar_type() == at::kInt && live->numel() == 1,
                  "dpgather: live is one int32 in memory of device ", device_);
      rows = static_cast<const std::int32_t*>(live->data_ptr());
    }
    batch_->pad(real, padded, tokens_per_request, rows, c10::cuda::getCurrentCUDAStream().stream());
  }
  void restore() {
    const c10::cuda::CUDAGuard here{static_cast<c10::DeviceIndex>(device_)};
    batch_->restore();
  }

private:
  std::vector<at::Tensor> tensors_;
  int device_;
  at::Tensor workspace_;
  std::unique_ptr<dp_torch::padded_tensors> batch_;
};

} // namespace

TORCH_LIBRARY(dpgather, library) {
  library.class_<DpGather>("DpGather")
      .def(torch::init<const std::string&, std::int64_t, at::ScalarType, std::int64_t,
                       std::vector<std::int64_t>, std::int64_t, bool, double>())
      .def("begin_step", &DpGather::begin_step)
      .def("begin_known_step", &DpGather::begin_known_step)
      .def("gather", &DpGather::gather)
      .def("combine_input", &DpGather::combine_input)
      .def("combine", &DpGather::combine)
      .def("counts", &DpGather::counts)
      .def("sizes", &DpGather::sizes)
      .def("check", &DpGather::check)
      .def("wait", &DpGather::wait)
      .def("set_timeout", &DpGather::set_timeout)
      .def("close", &DpGather::close);
  library.class_<Batch>("Batch")
      .def(torch::init<const std::vector<std::string>&, std::vector<at::Tensor>, std::int64_t>())
      .def("pad", &Batch::pad)
      .def("restore", &Batch::restore);
}
