// What the ray kernels are given. Everything is in voxel-index coordinates of a zero-padded volume,
// with the axes in an order chosen for the ray's dominant direction: [0] the axis the ray steps along
// (one slice at a time), [1] and [2] the two axes it interpolates in.
#pragma once
#include <cstdint>

namespace navnode {

constexpr int kBlock = 16;  // rays that share one choice of dominant axis

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

struct Rays {
  const float* u_px;
  const float* v_px;
  std::int64_t count;
};

enum class Voxel : int { int16 = 0, float32 = 1 };

// integral[count]; jacobian[6][count] or nullptr: d integral / d (rotation xyz in rad, translation
// xyz in mm) of volume_from_carm @ exp(xi), xi in carm axes.
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
