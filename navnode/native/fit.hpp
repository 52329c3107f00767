// One linearisation of the image-formation model behind 2D/3D registration (see
// registration/appearance.py): from line integrals d an X-ray chain makes
//   q = sum_b c_b phi_b + a t + b t^2,  t = (d - mean) / spread       background and grey-value map
//   m = -ln(exp(-q) + sum_k s_k psi_k)                                 plus scatter, in counts
// against y = -ln(counts), and the normal equations of the pose with c, a, b, s eliminated.
#pragma once
#include <cstdint>

namespace navnode {

constexpr int kMaxTerms = 16;  // backgrounds + 2 + scatters
constexpr int kPose = 6;
constexpr int kMostParameters = 12 * kPose;  // of the poses of several bodies

struct Pixels {
  std::int64_t count;
  const float* counts;      // > 0, in units of the brightest
  const float* trust;       // weight before the robust one; 0: not to be used
  const float* background;  // [backgrounds][count]
  const float* scatter;     // [scatters][count], >= 0, in the units of counts
  std::int32_t backgrounds, scatters;
};

struct Settings {
  float pose_scale[kPose];        // the Jacobian is divided by these, body by body
  float prior_sigma[kMaxTerms];   // of c, a, b, s about 0; <= 0: none
  float tukey, min_path;
  float model_sigma;              // of y - m where photons abound
  float scatter_error;            // relative error of the modelled scatter
  std::int32_t rounds;            // of re-weighting
  std::int32_t parameters;        // 6 per body, at most kMostParameters
  float photons;                  // share of the variance behind `trust` that is photons' noise for certain, 0..1
};

struct Solution {
  double coefficient[kMaxTerms];  // in: from the last call, or zeros; out: c, a, b, s
  double *hessian, *gradient;     // [parameters][parameters], [parameters]: of the scaled poses, weight 1 for trusted inliers
  double noise;                   // robust standard deviation of y - m
  double similarity;              // partial correlation of m and y over the inliers, background given, y's noise of photons taken off
  double inliers;                 // share of the trusted pixels with a weight
  double contrast;                // slope of the grey-value map at the mean: 1 for an ideal chain and a true mu_water
  std::int32_t started;           // in: whether `coefficient` holds something; out: whether it does
};

// jacobian: [parameters][count], or nullptr for appearance and similarity alone.
using FitFn = void (*)(const Pixels&, const Settings&, const float* integral, const float* jacobian, Solution&);

namespace portable { void fit(const Pixels&, const Settings&, const float*, const float*, Solution&); }
namespace avx2 { void fit(const Pixels&, const Settings&, const float*, const float*, Solution&); }
namespace avx512 { void fit(const Pixels&, const Settings&, const float*, const float*, Solution&); }

}  // namespace navnode
