// The headers obey tests/layers.txt, and the check finds violations that are planted. Tests mirror
// headers.
#include "layer_check.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

namespace {

std::string text_of(const std::filesystem::path& file) {
  std::ifstream in{file};
  REQUIRE_MESSAGE(in.good(), "cannot read " << file.string());
  return {std::istreambuf_iterator<char>{in}, {}};
}

std::vector<std::string> planted(layer_check::tree headers) {
  return layer_check::violations(
      layer_check::order{"# comment\nlow other\nmiddle\n[core ends]\nparts/\ntop\n"}, headers);
}

using sentences = std::vector<std::string>;

} // namespace

TEST_CASE("headers include only what stands above them") {
  const std::filesystem::path root = std::filesystem::path{DPGATHER_INCLUDE_DIR} / "dpgather";
  layer_check::tree headers;
  for (const auto& entry : std::filesystem::recursive_directory_iterator{root}) {
    if (const auto extension = entry.path().extension(); extension == ".hpp" || extension == ".cuh")
      headers[entry.path().lexically_relative(root).generic_string()] = text_of(entry.path());
  }
  CHECK(headers.size() > 10);
  for (const std::string& sentence : layer_check::violations(
           layer_check::order{text_of(DPGATHER_TESTS_DIR "/layers.txt")}, headers))
    FAIL_CHECK(sentence);
}

TEST_CASE("every test mirrors a header, or lies in a folder for others") {
  const std::filesystem::path tests{DPGATHER_TESTS_DIR};
  const std::filesystem::path headers = std::filesystem::path{DPGATHER_INCLUDE_DIR} / "dpgather";
  const std::set<std::string> others{"support", "scenarios",    "speed",   "fake",   "objects",
                                     "models",  "compile_fail", "headers", "consume"};
  int seen = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator{tests}) {
    const std::filesystem::path file = entry.path().lexically_relative(tests);
    // Not for .cu files: one may launch what several headers hold.
    if (file.extension() != ".cpp" || others.contains(file.begin()->string())) continue;
    ++seen;
    // Long tests come in several files: dp_gather_exact.cpp is one of dp_gather.hpp.
    std::string stem = file.stem().string();
    const auto mirrored = [&] {
      const auto header = headers / file.parent_path() / stem;
      return std::filesystem::exists(header.string() + ".hpp") ||
             std::filesystem::exists(header.string() + ".cuh");
    };
    while (!mirrored() && stem.find('_') != std::string::npos) stem.erase(stem.rfind('_'));
    CHECK_MESSAGE(mirrored(), file.string()
                                  << " mirrors no header; stories that span several belong "
                                     "into tests/scenarios");
  }
  CHECK(seen > 0);
}

TEST_CASE("a tree in order has no violation") {
  CHECK(planted({{"low.hpp", "#include <cstdint>\n"},
                 {"other.hpp", "#include <dpgather/low.hpp>\n#define DPGATHER_X\n"},
                 {"middle.hpp", "#include <dpgather/low.hpp>\n#include <dpgather/other.hpp>\n"},
                 {"parts/a.hpp", "#include <unistd.h>\n#include <dpgather/middle.hpp>\n"},
                 {"parts/b.cuh", "#include <cuda/atomic>\n#include <dpgather/parts/a.hpp>\n"},
                 {"top.cuh", "#include <dpgather/parts/b.cuh>\n"}})
            .empty());
}

TEST_CASE("planted violations are named") {
  CHECK(planted({{"low.hpp", "// first\n #  include <dpgather/middle.hpp>\n"},
                 {"middle.hpp", ""}}) == sentences{"low.hpp includes middle.hpp from below"});
  CHECK(planted({{"parts/a.hpp", "#include <dpgather/top.hpp>\n"}, {"top.hpp", ""}}) ==
        sentences{"parts/a.hpp includes top.hpp from below"});
  CHECK(planted({{"new.hpp", ""}}) == sentences{"new.hpp is not listed in tests/layers.txt"});
  CHECK(planted({{"other_parts/a.hpp", ""}}) ==
        sentences{"other_parts/a.hpp is not listed in tests/layers.txt"});
  CHECK(planted({{"low.hpp", "#include <dpgather/other.hpp>"},
                 {"other.hpp", "#include <dpgather/low.hpp>"}}) ==
        sentences{"cycle: low.hpp -> other.hpp -> low.hpp"});
  CHECK(planted({{"low.hpp", "#include <dpgather/low.hpp>"}}) ==
        sentences{"cycle: low.hpp -> low.hpp"});
  CHECK(planted({{"low.hpp", "#include <dpgather/gone.hpp>"}}) ==
        sentences{"low.hpp includes gone.hpp, which does not exist"});
  CHECK(planted({{"low.hpp", "#include \"other.hpp\"\n"}}) ==
        sentences{"low.hpp includes \"other.hpp\"; write <dpgather/...>"});
  CHECK(planted({{"low.hpp", "#include <unistd.h>\n"}}) ==
        sentences{"low.hpp includes <unistd.h>, but the core needs the standard library only"});
  CHECK(planted({{"top.hpp", "#include <dpgather/parts/b.cuh>\n"}, {"parts/b.cuh", ""}}) ==
        sentences{"top.hpp includes parts/b.cuh, but must compile without nvcc"});
  for (const std::string toolkit : {"cuda_runtime.h", "nccl.h", "cuda/std/span", "cub/cub.cuh",
                                    "thrust/sort.h", "nvtx3/nvtx3.hpp", "cooperative_groups.h"}) {
    CHECK(planted({{"top.hpp", "#include <" + toolkit + ">\n"}}) ==
          sentences{"top.hpp includes <" + toolkit + ">, but a .hpp needs no toolkit"});
  }
  CHECK(planted({{"low.hpp", "#define CHECK(x) x\n"}}) ==
        sentences{"low.hpp defines CHECK; macros begin with DPGATHER_"});
}
