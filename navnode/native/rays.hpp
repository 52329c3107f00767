// Inputs of the ray kernels. Everything is in voxel-index coordinates of a zero-padded volume,
// with the axes in an order chosen for the ray's dominant direction: [0] the axis the ray steps along
// (one slice at a time), [1] and [2] the two axes it interpolates in.
#pragma once
#include <algorithm>
#include <cstdint>

namespace navnode {

constexpr int kBlock = 16;                        // rays that share one choice of dominant axis
constexpr int kTileLines = 32, kTileBlocks = 4;   // of an image
constexpr int kListBlocks = 4;                    // few, so that a delayed thread delays little

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
  std::int32_t down;  // blocks of an image run down its columns, not along its rows

  struct Block {
    std::int64_t first;  // ray; where its result belongs, and every `step` floats on those of the others
    std::int64_t step;
    int size;
    float left, top;     // of the first, when all of an image is wanted
  };

  // Some blocks, which a thread works on at a time: neighbours on neighbouring lines of an image share the cache.
  struct Tile {
    std::int64_t line, block;  // the first
    int lines, blocks;         // blocks of each line
  };

  std::int64_t tiles() const {
    if (width <= 0) return parts(parts(count, kBlock), kListBlocks);
    return parts(across(), kTileLines) * parts(blocks_per_line(), kTileBlocks);
  }

  Tile tile(std::int64_t index) const {
    if (width <= 0) return {0, index * kListBlocks, 1, at_most(kListBlocks, parts(count, kBlock) - index * kListBlocks)};
    const std::int64_t per_band = parts(blocks_per_line(), kTileBlocks);
    const std::int64_t line = index / per_band * kTileLines, block = index % per_band * kTileBlocks;
    return {line, block, at_most(kTileLines, across() - line), at_most(kTileBlocks, blocks_per_line() - block)};
  }

  Block block(const Tile& tile, int index) const {
    const std::int64_t begin = (tile.block + index % tile.blocks) * kBlock, line = tile.line + index / tile.blocks;
    if (width <= 0) return {begin, 1, at_most(kBlock, count - begin), 0.f, 0.f};
    const int size = at_most(kBlock, along() - begin);
    if (down) return {begin * width + line, width, size, (float)line, (float)begin};
    return {line * width + begin, 1, size, (float)begin, (float)line};
  }

  float u(const Block& block, int at) const {
    return width > 0 ? block.left + (down ? 0 : at) : u_px[block.first + at];
  }
  float v(const Block& block, int at) const {
    return width > 0 ? block.top + (down ? at : 0) : v_px[block.first + at];
  }

 private:
  static std::int64_t parts(std::int64_t whole, int part) { return (whole + part - 1) / part; }
  static int at_most(int most, std::int64_t left) { return (int)std::min<std::int64_t>(most, left); }
  std::int64_t along() const { return down ? count / width : width; }
  std::int64_t across() const { return down ? width : count / width; }
  std::int64_t blocks_per_line() const { return parts(along(), kBlock); }
};

enum class Voxel : int { int16 = 0, float32 = 1 };

// integral[count]; jacobian[6][count] or nullptr: d integral / d (rotation xyz in rad, translation
// xyz in mm) of volume_from_carm @ exp(xi), xi in carm axes.
// `begin` and `end` count tiles.
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
