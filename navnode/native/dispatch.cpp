// The C interface that Python loads, the choice of instruction set, and the threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "fit.hpp"
#include "pool.hpp"
#include "rays.hpp"

#define NAVNODE_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace navnode;

struct Kernels {
  const char* name;
  ProjectFn project;
  BackprojectFn backproject;
  FitFn fit;
  PoolFn pool;
};

std::vector<Kernels> supported_kernels() {
  std::vector<Kernels> found;
#ifdef NAVNODE_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back({"avx512", avx512::project, avx512::backproject, avx512::fit, avx512::pool});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back({"avx2", avx2::project, avx2::backproject, avx2::fit, avx2::pool});
#endif
  found.push_back({"portable", portable::project, portable::backproject, portable::fit, portable::pool});
  return found;
}

const std::vector<Kernels>& kernels() {
  static const std::vector<Kernels> supported = supported_kernels();
  return supported;
}

// fn(thread, begin, end) over [0, count), handed out one by one as threads become free. The
// threads live for one call: starting one costs some 20 us against milliseconds of work, and leaves no
// spinning helpers beside the loop's other threads.
template <class Fn>
void in_parallel(std::int64_t count, int threads, Fn fn) {
  std::atomic<std::int64_t> next{0};
  const auto work = [&](int thread) {
    for (std::int64_t index; (index = next.fetch_add(1)) < count;) fn(thread, index, index + 1);
  };
  std::vector<std::thread> helpers;
  const int useful = (int)std::min<std::int64_t>(threads, count);
  for (int t = 1; t < useful; ++t) helpers.emplace_back(work, t);
  work(0);
  for (auto& helper : helpers) helper.join();
}

// Whether an image's columns follow memory more closely than its rows do, in the slices of its middle ray.
bool columns_along_memory(const Scene& scene, const Rays& rays) {
  const float u = 0.5f * rays.width, v = 0.5f * (float)(rays.count / rays.width);
  float largest = -1.f, along_u = 0.f, along_v = 0.f;
  for (const AxisView& view : scene.axis) {
    const auto d = [&](int a) { return view.corner[a] + u * view.per_u[a] + v * view.per_v[a]; };
    if (std::fabs(d(0)) <= largest) continue;
    largest = std::fabs(d(0));
    const float slope = d(2) / d(0);
    along_u = std::fabs(view.per_u[2] - slope * view.per_u[0]);
    along_v = std::fabs(view.per_v[2] - slope * view.per_v[0]);
  }
  return along_v > along_u;
}

// Blocks should consist of rays that are neighbours in memory, as these share cache lines.
Rays ordered(const Scene& scene, Rays rays) {
  rays.down = rays.width > 0 && columns_along_memory(scene, rays);
  return rays;
}

// mu = changed(mu, there, sum of the volumes) within the extent of `there`; mu and the volumes have a border. The volumes
// are zero afterwards.
template <class Fn>
void summed_into(float* volumes, float* mu, const float* there, const std::int32_t* size, int border, int threads,
                 Fn changed) {
  const std::int64_t planes = size[0], rows = size[1], columns = size[2], voxels = planes * rows * columns;
  const std::int64_t inner_rows = rows - 2 * border, inner_columns = columns - 2 * border;
  in_parallel(planes, threads, [&](int, std::int64_t plane, std::int64_t) {
    if (plane >= border && plane < planes - border)
      for (std::int64_t row = border; row < rows - border; ++row) {
        const std::int64_t at = (plane * rows + row) * columns + border;
        const float* beside = there + ((plane - border) * inner_rows + row - border) * inner_columns;
        for (int copy = 1; copy < threads; ++copy)
          for (std::int64_t n = 0; n < inner_columns; ++n) volumes[at + n] += volumes[copy * voxels + at + n];
        for (std::int64_t n = 0; n < inner_columns; ++n) mu[at + n] = changed(mu[at + n], beside[n], volumes[at + n]);
      }
    for (int copy = 0; copy < threads; ++copy) {
      float* from = volumes + copy * voxels + plane * rows * columns;
      std::fill(from, from + rows * columns, 0.f);
    }
  });
}

}  // namespace

// Names of the usable instruction sets, best first, separated by spaces.
NAVNODE_API void navnode_instruction_sets(char* out, std::size_t size) {
  std::size_t used = 0;
  for (const auto& k : kernels()) {
    const std::size_t length = std::strlen(k.name);
    if (used + length + 2 > size) break;
    if (used) out[used++] = ' ';
    std::memcpy(out + used, k.name, length);
    used += length;
  }
  out[used] = '\0';
}

NAVNODE_API void navnode_project(int isa, const Scene* scene, int voxel, const Rays* rays, float* integral,
                                 float* jacobian, int threads) {
  const auto& chosen = kernels()[isa];
  const Rays all = ordered(*scene, *rays);
  in_parallel(all.tiles(), threads, [&](int, std::int64_t begin, std::int64_t end) {
    chosen.project(*scene, static_cast<Voxel>(voxel), all, begin, end, integral, jacobian);
  });
}

// `volumes` is [threads][voxels], initially zero; each thread adds to its own copy. One of the two functions below reads
// them and resets them to zero.
NAVNODE_API void navnode_backproject(int isa, const Scene* scene, const Rays* rays, const float* ray_values,
                                     float* volumes, std::int64_t voxels, int threads) {
  const auto& chosen = kernels()[isa];
  const Rays all = ordered(*scene, *rays);
  in_parallel(all.tiles(), threads, [&](int thread, std::int64_t begin, std::int64_t end) {
    chosen.backproject(*scene, all, begin, end, ray_values, volumes + thread * voxels);
  });
}

// total = the sum of the volumes.
NAVNODE_API void navnode_sum(float* volumes, float* total, std::int64_t voxels, int threads) {
  constexpr std::int64_t piece = 1 << 16;
  in_parallel((voxels + piece - 1) / piece, threads, [&](int, std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * piece, last = std::min(end * piece, voxels);
    std::fill(total + first, total + last, 0.f);
    for (int copy = 0; copy < threads; ++copy) {
      float* from = volumes + copy * voxels;
      for (std::int64_t n = first; n < last; ++n) total[n] += from[n];
      std::fill(from + first, from + last, 0.f);
    }
  });
}

// mu = max(mu + factor gain (sum of the volumes), least) within the extent of `gain`; mu and the volumes have a border.
NAVNODE_API void navnode_correct(float* volumes, float* mu, const float* gain, float factor, float least,
                                 const std::int32_t* size, int border, int threads) {
  summed_into(volumes, mu, gain, size, border, threads, [=](float before, float gained, float sum) {
    return std::max(before + factor * gained * sum, least);
  });
}

// mu = min(mu (sum of the volumes) / weight, most) likewise, where the weight exceeds `least`.
NAVNODE_API void navnode_scale(float* volumes, float* mu, const float* weight, float least, float most,
                               const std::int32_t* size, int border, int threads) {
  summed_into(volumes, mu, weight, size, border, threads, [=](float before, float weighed, float sum) {
    return std::min(weighed > least ? before * (sum / weighed) : before, most);
  });
}

NAVNODE_API void navnode_fit(int isa, const Pixels* pixels, const Settings* settings, const float* integral,
                             const float* jacobian, Solution* solution) {
  kernels()[isa].fit(*pixels, *settings, integral, jacobian, *solution);
}

NAVNODE_API void navnode_pool(int isa, const Pooling* pooling, int threads) {
  const auto& chosen = kernels()[isa];
  const std::int64_t rows = pooling->size;  // of a slice
  in_parallel(pooling->size, threads, [&](int, std::int64_t begin, std::int64_t end) {
    chosen.pool(*pooling, begin * rows, end * rows);
  });
}
