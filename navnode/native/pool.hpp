// Pictures of several views sampled at the voxels of a cube, and pooled over the views that see a voxel (see
// reconstruction/pooling.py).
#pragma once
#include <cstdint>

namespace navnode {

struct Pooling {
  const float* pictures;           // [views][channels][height][width]
  const float* measured;           // [views][height][width], 1 or 0
  const float* pixels_from_index;  // [views][3][4]: voxel (i, j, k, 1) -> (u w, v w, w), w the depth in mm
  float *mean, *least, *most;      // [channels][size][size][size], 0 where no view sees; least and most may be null
  float* count;                    // [size][size][size]
  std::int32_t views, channels, height, width, size;  // height, width >= 2
  float nearest_mm;                // voxels less deep are not seen
};

// Rows of voxels along i, numbered k size + j, from `begin` to `end`.
using PoolFn = void (*)(const Pooling&, std::int64_t begin, std::int64_t end);

namespace portable { void pool(const Pooling&, std::int64_t, std::int64_t); }
namespace avx2 { void pool(const Pooling&, std::int64_t, std::int64_t); }
namespace avx512 { void pool(const Pooling&, std::int64_t, std::int64_t); }

}  // namespace navnode
