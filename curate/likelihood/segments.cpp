// Attention over the segments of a pack, as `segment_attention` in attention.py, in one call that holds no lock of Python's:
// packs on several threads would otherwise wait for each other between its many small operations.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

namespace {

constexpr int64_t BLOCK = 128;  // queries that are multiplied at once

// This thread's pack: for each segment start, stop, number of context spans, and start and stop of each of these. int64.
thread_local at::Tensor segments;

void lay_out(const at::Tensor& given) { segments = given; }

// Of rows of scores, (head, group, query) each over keys `low` to `high`, hide the keys that a query does not see.
void hide(at::Tensor& scores, int64_t queries, int64_t first, int64_t low, int64_t high, std::optional<int64_t> window) {
  const float hidden = -std::numeric_limits<float>::infinity();
  const int64_t width = high - low;
  float* row = scores.mutable_data_ptr<float>();
  for (int64_t number = 0; number < scores.size(0) * scores.size(1); ++number, row += width) {
    const int64_t place = first + number % queries;
    std::fill(row + (place + 1 - low), row + width, hidden);
    if (window) std::fill(row, row + std::max<int64_t>(0, place + 1 - *window - low), hidden);
  }
}

// query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D), float32
at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double scale,
                  std::optional<int64_t> window, std::optional<double> softcap) {
  TORCH_CHECK(query.scalar_type() == at::kFloat, "segments: float32 is expected");
  const int64_t heads = query.size(1), tokens = query.size(2), size = query.size(3);
  const int64_t kept = key.size(1), groups = heads / kept;
  const at::Tensor keys = key[0], values = value[0];
  const at::Tensor split = query.reshape({kept, groups, tokens, size});
  at::Tensor output = at::empty({1, tokens, heads, value.size(3)}, query.options());
  const int64_t* next = segments.const_data_ptr<int64_t>();
  const int64_t* const end = next + segments.numel();
  while (next < end) {
    const int64_t start = next[0], stop = next[1], spans = next[2];
    next += 3;
    std::vector<at::Tensor> near_keys, near_values;
    int64_t seen = 0;
    for (int64_t span = 0; span < spans; ++span, next += 2) {
      near_keys.push_back(keys.slice(1, next[0], next[1]));
      near_values.push_back(values.slice(1, next[0], next[1]));
      seen += next[1] - next[0];
    }
    near_keys.push_back(keys.slice(1, start, stop));
    near_values.push_back(values.slice(1, start, stop));
    const at::Tensor all_keys = (spans ? at::cat(near_keys, 1) : near_keys[0]).transpose(1, 2);  // (K, D, C)
    const at::Tensor all_values = spans ? at::cat(near_values, 1) : near_values[0];              // (K, C, D)
    const int64_t own = stop - start;
    const int64_t blocks = std::max<int64_t>(1, (own + BLOCK / 2) / BLOCK), step = (own + blocks - 1) / blocks;
    for (int64_t first = 0; first < own; first += step) {
      const int64_t last = std::min(own, first + step), queries = last - first, high = seen + last;
      // Keys that no query of this block sees are left out: those behind it, and those before the first one's window.
      const int64_t low = window ? std::max<int64_t>(0, seen + first - *window + 1) : 0;
      const at::Tensor asked = split.slice(2, start + first, start + last).mul(scale).reshape({kept, groups * queries, size});
      at::Tensor scores = at::bmm(asked, all_keys.slice(2, low, high));  // (K, G R, C)
      if (softcap) scores.div_(*softcap).tanh_().mul_(*softcap);
      hide(scores, queries, seen + first, low, high, window);
      const at::Tensor found = at::bmm(scores.softmax(-1), all_values.slice(1, low, high));
      output[0].slice(0, start + first, start + last).copy_(found.view({heads, queries, -1}).transpose(0, 1));
    }
  }
  return output;
}

}  // namespace

TORCH_LIBRARY(curate_segments, library) {
  library.def("lay_out(Tensor segments) -> ()", &lay_out);
  library.def("attend(Tensor query, Tensor key, Tensor value, float scale, SymInt? window, float? softcap) -> Tensor");
}

TORCH_LIBRARY_IMPL(curate_segments, CPU, library) { library.impl("attend", &attend); }
