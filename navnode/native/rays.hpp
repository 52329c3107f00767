// What the ray kernels are given. Everything is in voxel-index coordinates of a zero-padded volume,
// with the axes in an order chosen for the ray's dominant direction: [0] the axis the ray steps along
// (one slice at a time), [1] and [2] the two axes it interpolates in.
#pragma once
#include <algorithm>
#include <cstdint>

namespace navnode {

constexpr int kBlock = 16;   // rays that share one choice of dominant axis
constexpr std::int64_t kTileRows = 8, kTileBlocks = 8;

struct AxisView {
  const void* voxels;         // int16: the volume's copy in which axis [2] is contiguous
  std::int64_t stride[3];     // in voxels
  std::int32_t size[3];
  float source[3];            // X-ray source, index units
  float corner[3];            // source -> pixel (0, 0), index units
  float per_u[3], per_v[3];   // change of that direction per pixel
  float from_carm[3][3];      // index_from_carm, linear part
};

struct Scene {
  AxisView axis[3];           // axis[a]: rays that step along array axis a (z, y, x)
  float scale;                // voxel value -> 1/mm
  float center_px[2];         // principal point
  float spacing_mm[2];
  float source_to_detector_mm;
  float pivot_mm;             // the rotations of the Jacobian turn about (0, 0, pivot_mm) in carm
};

// A list of pixels, or all of an image row by row (width > 0, no list).
struct Rays {
  const float* u_px;
  const float* v_px;
  std::int64_t count;
  std::int32_t width;

  struct Block {
    std::int64_t first;  // ray; where its result belongs
    int size;
    float left, row;     // of the first, when all of an image is wanted
  };

  std::int64_t blocks() const {
    return width > 0 ? (count / width) * ((width + kBlock - 1) / kBlock) : (count + kBlock - 1) / kBlock;
  }

  // Blocks that a thread takes at a time: few of a list, so that a thread that is held up holds up little.
  std::int64_t piece() const { return width > 0 ? kTileRows : 4; }

  // An image is worked on in tiles, whose rays share the cache, and each of them row by row.
  Block block(std::int64_t index) const {
    if (width <= 0) return {index * kBlock, (int)std::min<std::int64_t>(kBlock, count - index * kBlock), 0.f, 0.f};
    const std::int64_t across = (width + kBlock - 1) / kBlock, height = count / width;
    const std::int64_t top = index / (across * kTileRows) * kTileRows, rows = std::min(kTileRows, height - top);
    const std::int64_t in_band = index - top * across, from = in_band / (rows * kTileBlocks) * kTileBlocks;
    const std::int64_t blocks = std::min(kTileBlocks, across - from), in_tile = in_band - from * rows;
    const std::int64_t left = (from + in_tile % blocks) * kBlock, row = top + in_tile / blocks;
    return {row * width + left, (int)std::min<std::int64_t>(kBlock, width - left), (float)left, (float)row};
  }

  float u(const Block& block, int at) const { return width > 0 ? block.left + at : u_px[block.first + at]; }
  float v(const Block& block, int at) const { return width > 0 ? block.row : v_px[block.first + at]; }
};

enum class Voxel : int { int16 = 0, float32 = 1 };

// integral[count]; jacobian[6][count] or nullptr: d integral / d (rotation xyz in rad, translation
// xyz in mm) of volume_from_carm @ exp(xi), xi in carm axes.
// `begin` and `end` count blocks.
using ProjectFn = void (*)(const Scene&, Voxel, const Rays&, std::int64_t begin, std::int64_t end,
                           float* integral, float* jacobian);

// volume += adjoint(ray_values); `volume` has the strides and sizes of scene.axis[a] (float32).
using BackprojectFn = void (*)(const Scene&, const Rays&, std::int64_t begin, std::int64_t end,
                               const float* ray_values, float* volume);

#define NAVNODE_DECLARE_ISA(isa)                                                                   \
  namespace isa {                                                                                  \
  void project(const Scene&, Voxel, const Rays&, std::int64_t, std::int64_t, float*, float*);      \
  void backproject(const Scene&, const Rays&, std::int64_t, std::int64_t, const float*, float*);   \
  }
NAVNODE_DECLARE_ISA(portable)
NAVNODE_DECLARE_ISA(avx2)
NAVNODE_DECLARE_ISA(avx512)
#undef NAVNODE_DECLARE_ISA

}  // namespace navnode
