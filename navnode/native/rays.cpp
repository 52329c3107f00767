// X-ray line integrals by Joseph's method (IEEE Trans. Med. Imaging 1(3), 1982): a ray visits one slice
// of its dominant axis at a time and interpolates bilinearly inside it. The derivatives with respect to
// the pose come in the same pass: a ray has four degrees of freedom, so the four sums
//   A1 = sum Va, A2 = sum Vb, B1 = sum k Va, B2 = sum k Vb
// over the slices k (Va, Vb the in-slice gradients) hold everything a rigid motion can change; what is
// left is the change of the path length per slice. They are the exact derivatives of the discrete sum.
#include "rays.hpp"

#include <algorithm>
#include <array>

#include "lanes.hpp"

namespace navnode::NAVNODE_ISA {
namespace {

struct Corners {
  F v00, v01, v10, v11;
};

// The four voxels around (i1, i2) of the slice at `slice`. int16 pairs along axis 2 come in one load.
template <Voxel voxel>
inline Corners fetch(const AxisView& view, std::int64_t slice, I i1, I i2) {
  const I row = i1 * (std::int32_t)view.stride[1];
  if constexpr (voxel == Voxel::int16) {
    const auto* base = static_cast<const std::int16_t*>(view.voxels) + slice;
    const I offset = row + i2;
    const I low = gather32<2>(base, offset), high = gather32<2>(base + view.stride[1], offset);
    // Values are never negative, so the low half needs a mask and the high half only a shift.
    return {to_float(low & 0xFFFF), to_float(low >> 16), to_float(high & 0xFFFF), to_float(high >> 16)};
  } else {
    const auto* base = static_cast<const float*>(view.voxels) + slice;
    const I offset = row + i2 * (std::int32_t)view.stride[2];
    const auto at = [&](std::int64_t shift) { return (F)gather32<4>(base + shift, offset); };
    return {at(0), at(view.stride[2]), at(view.stride[1]), at(view.stride[1] + view.stride[2])};
  }
}

constexpr int kAhead = 12;

// Where `fetch` will look at a slice. A pack's rays run side by side: the rows of its first ray and of its middle one,
// and the row after that, hold nearly all of it. Addresses beyond the volume are never read, only prefetched.
class Wanted {
 public:
  Wanted(const AxisView& view, std::int64_t bytes, F at1, F slope1, F at2, F slope2)
      : view_(view), bytes_(bytes), at1_{at1[0], at1[kMiddle]}, slope1_{slope1[0], slope1[kMiddle]},
        at2_{at2[0], at2[kMiddle]}, slope2_{slope2[0], slope2[kMiddle]} {}

  std::array<const void*, 3> rows(int k) const {
    return {at(k, 0, 0), at(k, 0, view_.stride[1]), at(k, 1, view_.stride[1])};
  }

 private:
  static constexpr int kMiddle = kLanes / 2;
  const void* at(int k, int ray, std::int64_t shift) const {
    const float kf = (float)k;
    const std::int64_t i1 = (int)(at1_[ray] + kf * slope1_[ray]), i2 = (int)(at2_[ray] + kf * slope2_[ray]);
    const std::int64_t voxel = k * view_.stride[0] + i1 * view_.stride[1] + i2 * view_.stride[2] + shift;
    return (const void*)((std::uintptr_t)view_.voxels + (std::uintptr_t)(voxel * bytes_));
  }
  const AxisView& view_;
  std::int64_t bytes_;
  float at1_[2], slope1_[2], at2_[2], slope2_[2];
};

// The slices [first, last] in which a ray runs inside the volume and between source and detector. Half a voxel
// inside the border, which is zero two voxels deep: what rounding does to a position cannot leave the volume.
struct Span {
  F first, last;
};

inline Span slices_inside(const AxisView& view, const F (&d)[3], F slope1, F slope2) {
  Span s{splat(1.f), splat((float)view.size[0] - 2.f)};
  constexpr float low = 0.5f;
  const F to_source = splat(view.source[0]), to_detector = to_source + d[0];
  s.first = max(s.first, min(to_source, to_detector));
  s.last = min(s.last, max(to_source, to_detector));
  const F slope[2] = {slope1, slope2};
  for (int a = 1; a < 3; ++a) {
    // position(k) = source[a] + (k - source[0]) * slope, to lie in [low, high]
    const float high = (float)view.size[a] - 1.f - low;
    const F k_per = d[0] / d[a];
    const F at_low = view.source[0] + (low - view.source[a]) * k_per;
    const F at_high = view.source[0] + (high - view.source[a]) * k_per;
    const auto parallel = abs(slope[a - 1]) < 1e-7f;
    const auto outside = (splat(view.source[a]) < low) | (splat(view.source[a]) > high);
    const F first = parallel ? (outside ? splat(1e9f) : splat(-1e9f)) : min(at_low, at_high);
    const F last = parallel ? splat(1e9f) : max(at_low, at_high);
    s.first = max(s.first, first);
    s.last = min(s.last, last);
  }
  return s;
}

// First and last whole slice of a span, within the volume; an empty range for what is no number.
struct Range {
  int first, last;
};

inline Range whole_slices(float first, float last, int size) {
  const float top = (float)(size - 1);
  if (!(first <= top) || !(last >= 0.f)) return {0, -1};
  return {(int)std::ceil(std::max(first, 0.f)), (int)std::floor(std::min(last, top))};
}

inline int dominant_axis(const Scene& scene, const Rays& rays, const Rays::Block& block) {
  const float u = rays.u(block, block.size / 2), v = rays.v(block, block.size / 2);
  int best = 0;
  float largest = -1.f;
  for (int a = 0; a < 3; ++a) {
    const AxisView& view = scene.axis[a];
    const float d0 = std::fabs(view.corner[0] + u * view.per_u[0] + v * view.per_v[0]);
    if (d0 > largest) largest = d0, best = a;
  }
  return best;
}

struct Pack {
  F u, v;
};

// The block's rays from `at` on; what is missing to a full pack repeats the last one.
inline Pack pack_of(const Rays& rays, const Rays::Block& block, int at, int lanes) {
  Pack pack;
  for (int l = 0; l < kLanes; ++l) {
    pack.u[l] = rays.u(block, at + std::min(l, lanes - 1));
    pack.v[l] = rays.v(block, at + std::min(l, lanes - 1));
  }
  return pack;
}

// From the source to a pixel, carm axes.
struct ToPixel {
  F x, y, z;
};

inline ToPixel to_pixel_mm(const Scene& scene, F u, F v) {
  return {(u - scene.center_px[0]) * scene.spacing_mm[0], (v - scene.center_px[1]) * scene.spacing_mm[1],
          splat(scene.source_to_detector_mm)};
}

// How rays run through the slices: at slice k they are at at1 + k slope1 and at2 + k slope2.
struct Course {
  F d[3], inverse_d0, slope1, slope2, at1, at2;
  Span span;
  F length;  // mm per slice: |source -> pixel| over the slices that it crosses
};

inline Course course_of(const Scene& scene, const AxisView& view, F u, F v) {
  Course c;
  for (int a = 0; a < 3; ++a) c.d[a] = view.corner[a] + u * view.per_u[a] + v * view.per_v[a];
  c.inverse_d0 = 1.f / c.d[0];
  c.slope1 = c.d[1] * c.inverse_d0;
  c.slope2 = c.d[2] * c.inverse_d0;
  c.at1 = view.source[1] - view.source[0] * c.slope1;
  c.at2 = view.source[2] - view.source[0] * c.slope2;
  c.span = slices_inside(view, c.d, c.slope1, c.slope2);
  const auto [x, y, z] = to_pixel_mm(scene, u, v);
  c.length = sqrt(x * x + y * y + z * z) * abs(c.inverse_d0);
  return c;
}

template <Voxel voxel, bool with_jacobian>
void project_pack(const Scene& scene, const AxisView& view, F u, F v, int lanes, float* integral,
                  float* jacobian, std::int64_t jacobian_stride) {
  const Course c = course_of(scene, view, u, v);
  const auto& [d, inverse_d0, slope1, slope2, at1, at2, span, length] = c;
  const F size1 = splat((float)view.size[1] - 1.001f), size2 = splat((float)view.size[2] - 1.001f);

  F sum{}, a1{}, a2{}, b1{}, b2{};
  const auto visit = [&]<bool checked>(int k) {
    const float kf = (float)k;
    F q1 = at1 + kf * slope1, q2 = at2 + kf * slope2;
    if constexpr (checked) {  // lanes outside are clamped into the zero border, where value and gradient vanish
      q1 = min(max(q1, F{}), size1);
      q2 = min(max(q2, F{}), size2);
    }
    const I i1 = truncate(q1), i2 = truncate(q2);
    const F f1 = q1 - to_float(i1), f2 = q2 - to_float(i2);
    const Corners near = fetch<voxel>(view, k * view.stride[0], i1, i2);
    const F e0 = near.v01 - near.v00, e1 = near.v11 - near.v10;
    const F row0 = near.v00 + e0 * f2, row1 = near.v10 + e1 * f2;
    F value = row0 + (row1 - row0) * f1, g1 = row1 - row0, g2 = e0 + (e1 - e0) * f1;
    if constexpr (checked) {
      const auto inside = (kf >= span.first) & (kf <= span.last);
      value = inside ? value : F{};
      g1 = inside ? g1 : F{};
      g2 = inside ? g2 : F{};
    }
    sum += value;
    if constexpr (with_jacobian) {
      a1 += g1;
      a2 += g2;
      b1 += kf * g1;
      b2 += kf * g2;
    }
  };
  const Range some = whole_slices(lowest(span.first), highest(span.last), view.size[0]);
  const Range all = whole_slices(highest(span.first), lowest(span.last), view.size[0]);
  int k = some.first;
  if (all.first <= all.last) {
    for (; k < all.first; ++k) visit.template operator()<true>(k);
    const Wanted wanted(view, voxel == Voxel::int16 ? 2 : 4, at1, slope1, at2, slope2);
    for (; k <= all.last; ++k) {
      for (const void* row : wanted.rows(k + kAhead)) __builtin_prefetch(row);
      visit.template operator()<false>(k);
    }
  }
  for (; k <= some.last; ++k) visit.template operator()<true>(k);

  const auto [x, y, z] = to_pixel_mm(scene, u, v);
  const F weight = length * scene.scale;
  store(integral, sum * weight, lanes);
  if constexpr (with_jacobian) {
    const F zero{};
    const F turn[3][3] = {{zero, -z, y}, {z, zero, -x}, {-y, x, zero}};  // e_j x d, carm axes
    const float pivot = scene.pivot_mm;
    const float swing[3][3] = {{0, pivot, 0}, {-pivot, 0, 0}, {0, 0, 0}};  // -(e_j x pivot)
    for (int j = 0; j < 6; ++j) {
      F ds[3], dd[3];
      for (int a = 0; a < 3; ++a) {
        const float* m = view.from_carm[a];
        if (j < 3) {
          ds[a] = splat(m[0] * swing[j][0] + m[1] * swing[j][1] + m[2] * swing[j][2]);
          dd[a] = m[0] * turn[j][0] + m[1] * turn[j][1] + m[2] * turn[j][2];
        } else {
          ds[a] = splat(m[j - 3]);
          dd[a] = zero;
        }
      }
      // position_a(k) = S_a + (k - S_0) slope_a;  slope_a = d_a / d_0
      const F dslope1 = (dd[1] - slope1 * dd[0]) * inverse_d0;
      const F dslope2 = (dd[2] - slope2 * dd[0]) * inverse_d0;
      const F at_zero1 = ds[1] - ds[0] * slope1 - view.source[0] * dslope1;
      const F at_zero2 = ds[2] - ds[0] * slope2 - view.source[0] * dslope2;
      const F change = at_zero1 * a1 + dslope1 * b1 + at_zero2 * a2 + dslope2 * b2 - sum * dd[0] * inverse_d0;
      store(jacobian + j * jacobian_stride, change * weight, lanes);
    }
  }
}

template <Voxel voxel, bool with_jacobian>
void project_rays(const Scene& scene, const Rays& rays, std::int64_t begin, std::int64_t end, float* integral,
                  float* jacobian) {
  for (std::int64_t index = begin; index < end; ++index) {
    const Rays::Block block = rays.block(index);
    const AxisView& view = scene.axis[dominant_axis(scene, rays, block)];
    for (int at = 0; at < block.size; at += kLanes) {
      const int lanes = std::min(kLanes, block.size - at);
      const auto [u, v] = pack_of(rays, block, at, lanes);
      const std::int64_t out = block.first + at;
      project_pack<voxel, with_jacobian>(scene, view, u, v, lanes, integral + out,
                                         with_jacobian ? jacobian + out : nullptr, rays.count);
    }
  }
}

}  // namespace

void project(const Scene& scene, Voxel voxel, const Rays& rays, std::int64_t begin, std::int64_t end,
             float* integral, float* jacobian) {
  if (voxel == Voxel::int16) {
    if (jacobian) project_rays<Voxel::int16, true>(scene, rays, begin, end, integral, jacobian);
    else project_rays<Voxel::int16, false>(scene, rays, begin, end, integral, nullptr);
  } else {
    if (jacobian) project_rays<Voxel::float32, true>(scene, rays, begin, end, integral, jacobian);
    else project_rays<Voxel::float32, false>(scene, rays, begin, end, integral, nullptr);
  }
}

// The transpose of `project` (float32 volumes), coefficient by coefficient: same slices, same weights.
void backproject(const Scene& scene, const Rays& rays, std::int64_t begin, std::int64_t end,
                 const float* ray_values, float* volume) {
  for (std::int64_t index = begin; index < end; ++index) {
    const Rays::Block block = rays.block(index);
    const AxisView& view = scene.axis[dominant_axis(scene, rays, block)];
    for (int at = 0; at < block.size; at += kLanes) {
      const int lanes = std::min(kLanes, block.size - at);
      const auto [u, v] = pack_of(rays, block, at, lanes);
      const Course c = course_of(scene, view, u, v);
      const F weight = c.length * scene.scale;
      for (int l = 0; l < lanes; ++l) {
        const float value = ray_values[block.first + at + l] * weight[l];
        if (value == 0.f) continue;
        const Range slices = whole_slices(c.span.first[l], c.span.last[l], view.size[0]);
        for (int k = slices.first; k <= slices.last; ++k) {
          const float q1 = std::min(std::max(c.at1[l] + k * c.slope1[l], 0.f), view.size[1] - 1.001f);
          const float q2 = std::min(std::max(c.at2[l] + k * c.slope2[l], 0.f), view.size[2] - 1.001f);
          const int i1 = (int)q1, i2 = (int)q2;
          const float f1 = q1 - i1, f2 = q2 - i2;
          float* near = volume + k * view.stride[0] + i1 * view.stride[1] + i2 * view.stride[2];
          const float high = value * f1, low = value - high;
          near[0] += low * (1.f - f2);
          near[view.stride[2]] += low * f2;
          near[view.stride[1]] += high * (1.f - f2);
          near[view.stride[1] + view.stride[2]] += high * f2;
        }
      }
    }
  }
}

}  // namespace navnode::NAVNODE_ISA
