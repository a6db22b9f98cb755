#pragma once

/// @file
/// One rank's KV cache in pages, with a table of pages for each running request.
///
/// Page 0 and table 0 belong to nobody: pad rows write their keys and values there and read them
/// back, so they run like any other row and no request ever sees them.

#include "tail_guard.hpp"
#include "tensor.hpp"

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace engine {

class kv_cache {
public:
  static constexpr std::int32_t page_slots = 8; ///< tokens in a page

  /// Room for `running` requests of `longest` tokens each; `columns`: floats of a key. Under
  /// `guard` every slot is NaN until it is written.
  kv_cache(std::int32_t requests, std::int32_t running, std::int32_t longest, std::int32_t layers,
           std::int32_t columns, const tail_guard& guard)
      : pages_each_{(longest + page_slots - 1) / page_slots},
        tables_(static_cast<std::size_t>(running + 1) * static_cast<std::size_t>(pages_each_)),
        table_of_(static_cast<std::size_t>(requests)) {
    const std::int32_t pages = running * pages_each_ + 1;
    for (std::int32_t p = pages - 1; p > 0; --p) free_pages_.push_back(p);
    for (std::int32_t t = running; t > 0; --t) free_tables_.push_back(t);
    for (std::int32_t l = 0; l < layers; ++l) {
      layers_.emplace_back(tensor_name::kv_cache, std::int64_t{pages} * page_slots, 2 * columns);
      guard.poison(layers_.back(), dg::row_range{0, std::int64_t{pages} * page_slots});
    }
  }

  /// Rows are slots: keys, then values.
  [[nodiscard]] tensor& layer(std::int32_t l) noexcept {
    return layers_[static_cast<std::size_t>(l)];
  }

  /// The table of a request, its own from its first token to `release`.
  [[nodiscard]] std::int32_t table(std::int32_t request) {
    std::int32_t& own = table_of_[static_cast<std::size_t>(request)];
    if (own == 0) own = taken_from(free_tables_);
    return own;
  }
  /// The slot of a request's token, in a new page where it is the first of one.
  [[nodiscard]] std::int32_t slot_to_write(std::int32_t table, std::int32_t position) {
    std::int32_t& page = page_at(table, position);
    if (page == 0) page = taken_from(free_pages_);
    return slot(table, position);
  }
  /// The slot of a token that is there.
  [[nodiscard]] std::int32_t slot(std::int32_t table, std::int32_t position) const noexcept {
    return tables_[index(table, position)] * page_slots + position % page_slots;
  }

  /// `[tables, pages_each()]`, 0 where a table has no page.
  [[nodiscard]] const std::vector<std::int32_t>& tables() const noexcept { return tables_; }
  [[nodiscard]] std::int32_t pages_each() const noexcept { return pages_each_; }
  /// Calls `visit(page)` for each page of a running request.
  template <class Visitor>
  void for_each_page(std::int32_t request, Visitor visit) {
    for (std::int32_t p = 0; p < pages_each_; ++p) {
      const std::int32_t page = page_at(table(request), p * page_slots);
      if (page != 0) visit(page);
    }
  }

  /// The request is over. Under `guard` its slots become NaN, like everything that nobody owns.
  void release(std::int32_t request, const tail_guard& guard) {
    std::int32_t& own = table_of_[static_cast<std::size_t>(request)];
    for (std::int32_t p = 0; p < pages_each_; ++p) {
      std::int32_t& page = page_at(own, p * page_slots);
      if (page == 0) continue;
      for (tensor& each : layers_)
        guard.poison(each, dg::row_range{std::int64_t{page} * page_slots, page_slots});
      free_pages_.push_back(page);
      page = 0;
    }
    free_tables_.push_back(own);
    own = 0;
  }

private:
  [[nodiscard]] std::size_t index(std::int32_t table, std::int32_t position) const noexcept {
    return static_cast<std::size_t>(table) * static_cast<std::size_t>(pages_each_) +
           static_cast<std::size_t>(position / page_slots);
  }
  [[nodiscard]] std::int32_t& page_at(std::int32_t table, std::int32_t position) noexcept {
    return tables_[index(table, position)];
  }
  [[nodiscard]] static std::int32_t taken_from(std::vector<std::int32_t>& free) {
    if (free.empty()) throw std::runtime_error("KV cache: more requests than there is room for");
    const std::int32_t out = free.back();
    free.pop_back();
    return out;
  }

  std::int32_t pages_each_;
  std::vector<std::int32_t> tables_;   ///< `[running + 1, pages_each_]`, 0 where there is none
  std::vector<std::int32_t> table_of_; ///< by request; 0: none
  std::vector<std::int32_t> free_pages_, free_tables_;
  std::vector<tensor> layers_;
};

} // namespace engine
