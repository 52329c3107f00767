// X-ray line integrals by Joseph's method (IEEE Trans. Med. Imaging 1(3), 1982): a ray visits one slice
// of its dominant axis at a time and interpolates bilinearly inside it. The derivatives with respect to
// the pose come in the same pass: a ray has four degrees of freedom, so the four sums
//   A1 = sum Va, A2 = sum Vb, B1 = sum k Va, B2 = sum k Vb
// over the slices k (Va, Vb the in-slice gradients) hold everything a rigid motion can change; what is
// left is the change of the path length per slice. They are the exact derivatives of the discrete sum.
//
// A ray steep to its axis crosses cells faster than slices, and is sampled halfway between them, too, where samples at
// slices alone err most. How much these count grows from nothing with the slope, so that nothing jumps with the pose.
#include "rays.hpp"

#include <algorithm>

#include "lanes.hpp"

namespace navnode::NAVNODE_ISA {
namespace {

struct Corners {
  F v00, v01, v10, v11;
};

// Two int16 in each lane, none of them negative.
inline F low_half(U pairs) { return to_float((I)(pairs & 0xFFFF)); }
inline F high_half(U pairs) { return to_float((I)(pairs >> 16)); }

// The four voxels around (i1, i2) of the slice at `slice`; `halfway` to the next slice, the sum with the next one's.
// int16 pairs along axis 2 come in one load, and sums of two of them still fit their halves.
template <Voxel voxel, bool halfway>
inline Corners fetch(const AxisView& view, std::int64_t slice, I i1, I i2) {
  const I row = i1 * (std::int32_t)view.stride[1];
  if constexpr (voxel == Voxel::int16) {
    const auto* base = static_cast<const std::int16_t*>(view.voxels) + slice;
    const I offset = row + i2;
    const auto pairs = [&](std::int64_t shift) {
      const U here = (U)gather32<2>(base + shift, offset);
      return halfway ? here + (U)gather32<2>(base + shift + view.stride[0], offset) : here;
    };
    const U low = pairs(0), high = pairs(view.stride[1]);
    return {low_half(low), high_half(low), low_half(high), high_half(high)};
  } else {
    const auto* base = static_cast<const float*>(view.voxels) + slice;
    const I offset = row + i2 * (std::int32_t)view.stride[2];
    const auto at = [&](std::int64_t shift) {
      const F here = (F)gather32<4>(base + shift, offset);
      return halfway ? here + (F)gather32<4>(base + shift + view.stride[0], offset) : here;
    };
    return {at(0), at(view.stride[2]), at(view.stride[1]), at(view.stride[1] + view.stride[2])};
  }
}

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

// First and last whole slice of a span, within the volume; an empty range for NaN.
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

// The block's rays from `at` on; the last one is repeated to fill the pack.
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

// Paths of rays through the slices: at slice k they are at at1 + k slope1 and at2 + k slope2.
struct Course {
  F d[3], inverse_d0, slope1, slope2, at1, at2;
  Span span;
  F length;   // mm that a sample at a slice stands for: |source -> pixel| over the slices that it crosses, or its share
  F halfway;  // what a sample between slices counts, against one at a slice
};

// Squares of both slopes, together: from where on samples between slices count, and from where as much as the others.
// Below, slices alone err by less than 3e-4 of a body's integrals (`navnode bench projector`).
constexpr float kSteep = 1.2f, kSteepest = 1.6f;

inline Course course_of(const Scene& scene, const AxisView& view, F u, F v) {
  Course c;
  for (int a = 0; a < 3; ++a) c.d[a] = view.corner[a] + u * view.per_u[a] + v * view.per_v[a];
  c.inverse_d0 = 1.f / c.d[0];
  c.slope1 = c.d[1] * c.inverse_d0;
  c.slope2 = c.d[2] * c.inverse_d0;
  c.at1 = view.source[1] - view.source[0] * c.slope1;
  c.at2 = view.source[2] - view.source[0] * c.slope2;
  c.span = slices_inside(view, c.d, c.slope1, c.slope2);
  const F steepness = (c.slope1 * c.slope1 + c.slope2 * c.slope2 - kSteep) * (1.f / (kSteepest - kSteep));
  c.halfway = min(max(steepness, F{}), splat(1.f));
  const auto [x, y, z] = to_pixel_mm(scene, u, v);
  c.length = sqrt(x * x + y * y + z * z) * abs(c.inverse_d0) / (1.f + c.halfway);
  return c;
}

// Rays of a tile go through a slab of slices after each other, while it is in the cache.
constexpr int kSlab = 8;

// The rays of a pack on their way through the volume.
struct Walk {
  const AxisView* view;
  Course course;
  F u, v;
  int lanes;
  std::int64_t out, step;  // where its results belong
  bool between;            // some of its rays are sampled between slices, too
  Range some, all;         // slices with a sample inside for any ray, and with all of them for all
  int next;                // slice
  F sum{}, a1{}, a2{}, b1{}, b2{};
};

inline Walk walk_of(const Scene& scene, const AxisView& view, const Rays& rays, const Rays::Block& block, int at) {
  Walk w;
  w.view = &view;
  w.lanes = std::min(kLanes, block.size - at);
  const auto [u, v] = pack_of(rays, block, at, w.lanes);
  w.u = u, w.v = v;
  w.course = course_of(scene, view, u, v);
  w.out = block.first + at * block.step, w.step = block.step;
  w.between = highest(w.course.halfway) > 0.f;
  const Span& span = w.course.span;
  const float beyond = w.between ? 0.5f : 0.f;
  w.some = whole_slices(lowest(span.first) - beyond, highest(span.last), view.size[0]);
  w.all = whole_slices(highest(span.first), lowest(span.last) - beyond, view.size[0]);
  w.next = w.some.first;
  return w;
}

// Go on up to slice `end`.
template <Voxel voxel, bool with_jacobian, bool between>
void go_on(Walk& walk, int end) {
  const AxisView& view = *walk.view;
  const auto& [d, inverse_d0, slope1, slope2, at1, at2, span, length, share_halfway] = walk.course;
  const F size1 = splat((float)view.size[1] - 1.001f), size2 = splat((float)view.size[2] - 1.001f);
  const F share_of_two = 0.5f * share_halfway;  // `fetch` gives the sum of two slices' voxels
  F sum = walk.sum, a1 = walk.a1, a2 = walk.a2, b1 = walk.b1, b2 = walk.b2;
  // Every ray goes about as far in as many slices: what a pack will want in the next slab lies about `ahead` bytes on
  // from what it wants here. Every fourth ray's row holds nearly all of it, for rays that run side by side.
  constexpr std::int64_t bytes = voxel == Voxel::int16 ? 2 : 4;
  const auto in_a_slab = [](float slope) { return std::fabs(slope) < 4.f ? (int)(kSlab * slope) : 0; };
  const std::int64_t ahead = bytes * (kSlab * view.stride[0] + in_a_slab(slope1[0]) * view.stride[1] +
                                      in_a_slab(slope2[0]) * view.stride[2]);
  const auto prefetch = [&](std::int64_t slice, I offset) {  // beyond the volume, too: nothing is read there
    const std::uintptr_t there = (std::uintptr_t)view.voxels + (std::uintptr_t)(bytes * slice + ahead);
    for (int l = 0; l < kLanes; l += 4) __builtin_prefetch((const void*)(there + (std::uintptr_t)(bytes * offset[l])));
  };
  const auto sample = [&]<bool checked, bool halfway>(int k) {
    const float kf = halfway ? (float)k + 0.5f : (float)k;
    F q1 = at1 + kf * slope1, q2 = at2 + kf * slope2;
    if constexpr (checked) {  // lanes outside are clamped into the zero border, where value and gradient vanish
      q1 = min(max(q1, F{}), size1);
      q2 = min(max(q2, F{}), size2);
    }
    const I i1 = truncate(q1), i2 = truncate(q2);
    const F f1 = q1 - to_float(i1), f2 = q2 - to_float(i2);
    const std::int64_t slice = k * view.stride[0];
    if constexpr (!checked && !halfway)
      prefetch(slice, i1 * (std::int32_t)view.stride[1] + i2 * (std::int32_t)view.stride[2]);
    const Corners at = fetch<voxel, halfway>(view, slice, i1, i2);
    const F e0 = at.v01 - at.v00, e1 = at.v11 - at.v10;
    const F row0 = at.v00 + e0 * f2, row1 = at.v10 + e1 * f2;
    F value = row0 + (row1 - row0) * f1, g1 = row1 - row0, g2 = e0 + (e1 - e0) * f1;
    if constexpr (checked) {
      const auto inside = (kf >= span.first) & (kf <= span.last);
      value = inside ? value : F{};
      g1 = inside ? g1 : F{};
      g2 = inside ? g2 : F{};
    }
    const F share = halfway ? share_of_two : splat(1.f), k_share = kf * share;
    sum += share * value;
    if constexpr (with_jacobian) {
      a1 += share * g1;
      a2 += share * g2;
      b1 += k_share * g1;
      b2 += k_share * g2;
    }
  };
  const auto visit = [&]<bool checked>(int k) {
    sample.template operator()<checked, false>(k);
    if constexpr (between) sample.template operator()<checked, true>(k);
  };
  const int last = std::min(walk.some.last, end - 1), last_for_all = std::min(walk.all.last, last);
  int k = walk.next;
  if (walk.all.first <= walk.all.last) {
    for (; k < std::min(walk.all.first, last + 1); ++k) visit.template operator()<true>(k);
    for (; k <= last_for_all; ++k) visit.template operator()<false>(k);
  }
  for (; k <= last; ++k) visit.template operator()<true>(k);
  walk.next = k;
  walk.sum = sum, walk.a1 = a1, walk.a2 = a2, walk.b1 = b1, walk.b2 = b2;
}

template <bool with_jacobian>
void finish(const Scene& scene, const Walk& walk, float* integral, float* jacobian, std::int64_t jacobian_stride) {
  const AxisView& view = *walk.view;
  const auto& [d, inverse_d0, slope1, slope2, at1, at2, span, length, share_halfway] = walk.course;
  const auto [x, y, z] = to_pixel_mm(scene, walk.u, walk.v);
  const F weight = length * scene.scale;
  store(integral + walk.out, walk.step, walk.sum * weight, walk.lanes);
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
      const F change = at_zero1 * walk.a1 + dslope1 * walk.b1 + at_zero2 * walk.a2 + dslope2 * walk.b2 -
                       walk.sum * dd[0] * inverse_d0;
      store(jacobian + j * jacobian_stride + walk.out, walk.step, change * weight, walk.lanes);
    }
  }
}

constexpr int kMostWalks = std::max(kTileLines * kTileBlocks, kListBlocks) * ((kBlock + kLanes - 1) / kLanes);

// All rays of a tile, slab by slab: `go_on(walk, end)` as often as it takes, then `finish(walk)`.
template <class GoOn, class Finish>
void walk_through(const Scene& scene, const Rays& rays, std::int64_t tile_index, GoOn go_on, Finish finish) {
  Walk walks[kMostWalks];
  int count = 0, slices = 0;
  const Rays::Tile tile = rays.tile(tile_index);
  for (int b = 0; b < tile.lines * tile.blocks; ++b) {
    const Rays::Block block = rays.block(tile, b);
    const AxisView& view = scene.axis[dominant_axis(scene, rays, block)];
    for (int at = 0; at < block.size; at += kLanes) {
      walks[count] = walk_of(scene, view, rays, block, at);
      slices = std::max(slices, walks[count++].some.last + 1);
    }
  }
  const int slab = rays.width > 0 ? kSlab : slices;  // the pixels of a list are no neighbours
  for (int slice = 0; slice < slices; slice += slab)
    for (int w = 0; w < count; ++w) go_on(walks[w], slice + slab);
  for (int w = 0; w < count; ++w) finish(walks[w]);
}

template <Voxel voxel, bool with_jacobian>
void project_rays(const Scene& scene, const Rays& rays, std::int64_t begin, std::int64_t end, float* integral,
                  float* jacobian) {
  for (std::int64_t index = begin; index < end; ++index)
    walk_through(
        scene, rays, index,
        [](Walk& walk, int slice) {
          if (walk.between) go_on<voxel, with_jacobian, true>(walk, slice);
          else go_on<voxel, with_jacobian, false>(walk, slice);
        },
        [&](const Walk& walk) { finish<with_jacobian>(scene, walk, integral, jacobian, rays.count); });
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

// The transpose of `project` (float32 volumes), coefficient by coefficient: same samples, same weights.
void backproject(const Scene& scene, const Rays& rays, std::int64_t begin, std::int64_t end,
                 const float* ray_values, float* volume) {
  const auto spread = [&](Walk& walk, int end_slice) {
    const AxisView& view = *walk.view;
    const auto& [d, inverse_d0, slope1, slope2, at1, at2, span, length, share_halfway] = walk.course;
    const F size1 = splat((float)view.size[1] - 1.001f), size2 = splat((float)view.size[2] - 1.001f);
    const std::int64_t down = view.stride[1], right = view.stride[2];
    F values{};
    for (int l = 0; l < walk.lanes; ++l) values[l] = ray_values[walk.out + l * walk.step];
    values *= length * scene.scale;
    const auto sample = [&]<bool halfway>(int k) {
      const float kf = halfway ? (float)k + 0.5f : (float)k;
      const F q1 = min(max(at1 + kf * slope1, F{}), size1), q2 = min(max(at2 + kf * slope2, F{}), size2);
      const I i1 = truncate(q1), i2 = truncate(q2);
      const F f1 = q1 - to_float(i1), f2 = q2 - to_float(i2);
      F value = halfway ? values * (0.5f * share_halfway) : values;  // half of it belongs to each of two slices
      value = ((kf >= span.first) & (kf <= span.last)) ? value : F{};
      const F high = value * f1, low = value - high, high_right = high * f2, low_right = low * f2;
      const F low_left = low - low_right, high_left = high - high_right;
      const I offset = i1 * (std::int32_t)down + i2 * (std::int32_t)right;
      float* slice = volume + k * view.stride[0];
      for (int side = 0; side <= (int)halfway; ++side, slice += view.stride[0])
        for (int l = 0; l < kLanes; ++l) {  // one by one: neighbours meet in the same voxels
          float* at = slice + offset[l];
          at[0] += low_left[l];
          at[right] += low_right[l];
          at[down] += high_left[l];
          at[down + right] += high_right[l];
        }
    };
    for (; walk.next <= std::min(walk.some.last, end_slice - 1); ++walk.next) {
      sample.template operator()<false>(walk.next);
      if (walk.between) sample.template operator()<true>(walk.next);
    }
  };
  for (std::int64_t index = begin; index < end; ++index) walk_through(scene, rays, index, spread, [](const Walk&) {});
}

}  // namespace navnode::NAVNODE_ISA
