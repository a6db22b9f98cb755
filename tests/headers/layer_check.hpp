#pragma once

// Which header may include which. Works on texts in memory, so that the check itself is tested on
// planted violations.

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace layer_check {

/// Path below include/dpgather, e.g. `comm/host.hpp`, to its text.
using tree = std::map<std::string, std::string>;

/// The order of parts: layers.txt, read.
class order {
public:
  explicit order(const std::string& text) {
    std::istringstream lines{text};
    for (std::string line; std::getline(lines, line);) {
      if (line.empty() || line[0] == '#') continue;
      if (line == "[core ends]") {
        core_end_ = next_;
        continue;
      }
      std::istringstream names{line};
      for (std::string name; names >> name;) layer_[name] = next_;
      ++next_;
    }
  }

  /// The layer of a path, by its own name first and by its folder second; -1: not listed.
  [[nodiscard]] int layer_of(const std::string& path) const {
    if (const auto own = layer_.find(path.substr(0, path.rfind('.'))); own != layer_.end())
      return own->second;
    const auto folder = layer_.find(path.substr(0, path.find('/') + 1));
    return folder == layer_.end() ? -1 : folder->second;
  }
  [[nodiscard]] bool in_core(const std::string& path) const { return layer_of(path) < core_end_; }

private:
  std::map<std::string, int> layer_;
  int next_ = 0;
  int core_end_ = 0;
};

/// What stands between the brackets or quotes of every include line, brackets and quotes included.
inline std::vector<std::string> includes_of(const std::string& text) {
  static const std::regex line{R"((?:^|\n)[ \t]*#[ \t]*include[ \t]*([<"][^>"\n]+[>"]))"};
  std::vector<std::string> out;
  for (std::sregex_iterator it{text.begin(), text.end(), line}, end; it != end; ++it)
    out.push_back((*it)[1]);
  return out;
}

/// Macros that a header defines without the library's prefix.
inline std::vector<std::string> foreign_macros_of(const std::string& text) {
  static const std::regex line{R"((?:^|\n)[ \t]*#[ \t]*define[ \t]+(?!DPGATHER_)(\w+))"};
  std::vector<std::string> out;
  for (std::sregex_iterator it{text.begin(), text.end(), line}, end; it != end; ++it)
    out.push_back((*it)[1]);
  return out;
}

/// True for `vector`, `cstdint`: no folder, no extension.
inline bool is_standard(const std::string& name) {
  return name.find_first_of("./") == std::string::npos;
}

inline bool is_toolkit(const std::string& name) {
  static const std::regex toolkit{
      "(cuda|nccl|cub/|thrust/|nv/|nvtx|cooperative_groups|driver_types|"
      "vector_types|cu[A-Z]).*"};
  return std::regex_match(name, toolkit);
}

/// One include, against every rule. Appends a sentence per violation.
inline void check_include(const order& layers, const tree& headers, const std::string& from,
                          const std::string& include, std::vector<std::string>& out) {
  const std::string name = include.substr(1, include.size() - 2);
  const bool host = from.ends_with(".hpp");
  if (include[0] == '"') {
    out.push_back(from + " includes " + include + "; write <dpgather/...>");
  } else if (name.starts_with("dpgather/")) {
    const std::string to = name.substr(std::string{"dpgather/"}.size());
    if (!headers.contains(to)) {
      out.push_back(from + " includes " + to + ", which does not exist");
    } else if (layers.layer_of(to) > layers.layer_of(from)) {
      out.push_back(from + " includes " + to + " from below");
    } else if (host && to.ends_with(".cuh")) {
      out.push_back(from + " includes " + to + ", but must compile without nvcc");
    }
  } else if (host && is_toolkit(name)) {
    out.push_back(from + " includes " + include + ", but a .hpp needs no toolkit");
  } else if (layers.in_core(from) && !is_standard(name)) {
    out.push_back(from + " includes " + include + ", but the core needs the standard library only");
  }
}

/// Depth-first; appends one sentence per cycle found.
inline void find_cycles(const tree& headers, const std::string& at, std::vector<std::string>& path,
                        std::set<std::string>& done, std::vector<std::string>& out) {
  if (const auto seen = std::ranges::find(path, at); seen != path.end()) {
    std::string text = "cycle: ";
    for (auto step = seen; step != path.end(); ++step) text += *step + " -> ";
    out.push_back(text + at);
    return;
  }
  if (!headers.contains(at) || !done.insert(at).second) return;
  path.push_back(at);
  for (const std::string& include : includes_of(headers.at(at))) {
    const std::string name = include.substr(1, include.size() - 2);
    if (name.starts_with("dpgather/"))
      find_cycles(headers, name.substr(std::string{"dpgather/"}.size()), path, done, out);
  }
  path.pop_back();
}

/// Every violation in the tree, one sentence each.
inline std::vector<std::string> violations(const order& layers, const tree& headers) {
  std::vector<std::string> out;
  std::set<std::string> done;
  for (const auto& [path, text] : headers) {
    if (layers.layer_of(path) < 0) {
      out.push_back(path + " is not listed in tests/layers.txt");
      continue;
    }
    for (const std::string& include : includes_of(text))
      check_include(layers, headers, path, include, out);
    for (const std::string& macro : foreign_macros_of(text))
      out.push_back(path + " defines " + macro + "; macros begin with DPGATHER_");
    std::vector<std::string> stack;
    find_cycles(headers, path, stack, done, out);
  }
  return out;
}

} // namespace layer_check
