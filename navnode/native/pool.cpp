// Compiled once per instruction set; a vector of voxels along a row at a time.
#include "pool.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.hpp"

namespace navnode::NAVNODE_ISA {
namespace {

constexpr float kSeen = 0.5f;  // share of measured pixels around the place of a voxel

// Where a picture shows some voxels: the pixel above and to the left, and the weights of it and its neighbours.
struct Place {
  I at;
  F here, right, below, across;
};

F bilinear(const float* picture, int width, const Place& place) {
  const auto from = [&](std::int64_t offset) { return (F)gather32<4>(picture + offset, place.at); };
  return place.here * from(0) + place.right * from(1) + place.below * from(width) + place.across * from(width + 1);
}

// 1 inside a picture, falling to 0 within a pixel beyond its edge.
F inside(F at, int size) { return max(min(min(at + 1.f, splat((float)size) - at), splat(1.f)), F{}); }

class Row {
 public:
  explicit Row(const Pooling& all) : all_(all), padded_((all.size + kLanes - 1) / kLanes * kLanes) {
    sum_.resize(std::int64_t(all.channels) * padded_);
    least_.resize(sum_.size());
    most_.resize(sum_.size());
    count_.resize(padded_);
  }

  void pool(int k, int j) {
    std::fill(sum_.begin(), sum_.end(), 0.f);
    std::fill(least_.begin(), least_.end(), INFINITY);
    std::fill(most_.begin(), most_.end(), -INFINITY);
    std::fill(count_.begin(), count_.end(), 0.f);
    for (int view = 0; view < all_.views; ++view)
      for (int i = 0; i < padded_; i += kLanes) add(view, i, j, k);
    write(std::int64_t(k) * all_.size + j);
  }

 private:
  void add(int view, int i, int j, int k) {
    const float* rows = all_.pixels_from_index + 12 * view;
    F along;
    for (int lane = 0; lane < kLanes; ++lane) along[lane] = (float)(i + lane);
    const auto product = [&](const float* row) { return along * row[0] + (row[1] * j + row[2] * k + row[3]); };
    const F depth_mm = product(rows + 8), away = max(depth_mm, splat(all_.nearest_mm));
    const F u = product(rows) / away, v = product(rows + 4) / away;
    const F x = max(min(u, splat(all_.width - 1.f)), F{}), y = max(min(v, splat(all_.height - 1.f)), F{});
    const F left = to_float(truncate(min(x, splat(all_.width - 2.f))));
    const F top = to_float(truncate(min(y, splat(all_.height - 2.f))));
    const F fx = x - left, fy = y - top;
    const Place place{truncate(top) * all_.width + truncate(left), (1.f - fx) * (1.f - fy), fx * (1.f - fy),
                      (1.f - fx) * fy, fx * fy};
    const std::int64_t pixels = std::int64_t(all_.height) * all_.width;
    const F share = bilinear(all_.measured + view * pixels, all_.width, place) * inside(u, all_.width) *
                    inside(v, all_.height);
    const I seen = (share > kSeen) & (depth_mm > all_.nearest_mm);
    keep(&count_[i], load(&count_[i]) + (seen ? splat(1.f) : F{}));
    for (int channel = 0; channel < all_.channels; ++channel) {
      const std::int64_t picture = std::int64_t(view) * all_.channels + channel;
      const F value = bilinear(all_.pictures + picture * pixels, all_.width, place);
      const std::int64_t there = std::int64_t(channel) * padded_ + i;
      keep(&sum_[there], load(&sum_[there]) + (seen ? value : F{}));
      if (all_.least) keep(&least_[there], min(load(&least_[there]), seen ? value : splat(INFINITY)));
      if (all_.most) keep(&most_[there], max(load(&most_[there]), seen ? value : splat(-INFINITY)));
    }
  }

  static void keep(float* to, F x) { store(to, 1, x, kLanes); }

  void write(std::int64_t row) {
    const std::int64_t voxels = std::int64_t(all_.size) * all_.size * all_.size;
    std::copy_n(count_.begin(), all_.size, all_.count + row * all_.size);
    for (int channel = 0; channel < all_.channels; ++channel) {
      const std::int64_t from = std::int64_t(channel) * padded_, to = channel * voxels + row * all_.size;
      for (int i = 0; i < all_.size; ++i) {
        const bool seen = count_[i] > 0.f;
        all_.mean[to + i] = sum_[from + i] / std::max(count_[i], 1.f);
        if (all_.least) all_.least[to + i] = seen ? least_[from + i] : 0.f;
        if (all_.most) all_.most[to + i] = seen ? most_[from + i] : 0.f;
      }
    }
  }

  const Pooling& all_;
  const int padded_;
  std::vector<float> sum_, least_, most_, count_;
};

}  // namespace

void pool(const Pooling& all, std::int64_t begin, std::int64_t end) {
  Row row(all);
  for (std::int64_t n = begin; n < end; ++n) row.pool(int(n / all.size), int(n % all.size));
}

}  // namespace navnode::NAVNODE_ISA
