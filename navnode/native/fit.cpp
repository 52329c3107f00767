// Compiled once per instruction set; plain loops that the compiler turns into vectors.
#include "fit.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace navnode::NAVNODE_ISA {
namespace {

constexpr int kRows = kMostParameters + kMaxTerms + 1;  // poses, terms, residual
constexpr std::int64_t kTile = 256;           // pixels whose sums stay in float

using Square = double[kRows][kRows];

// Reused by every call of a thread: the loop must not allocate.
struct Scratch {
  std::vector<float> t, model, share, residual, trust, weight, sorted, rows;
  void hold(std::int64_t count, std::int64_t used) {
    for (auto* v : {&t, &model, &share, &residual, &trust, &weight, &sorted})
      if ((std::int64_t)v->size() < count) v->resize(count);
    if ((std::int64_t)rows.size() < used * count) rows.resize(used * count);
  }
};

// sum[i][j] = sum over pixels of weight r_i r_j, symmetric; `rows` is [used][count].
void gram(const float* rows, int used, const float* weight, std::int64_t count, Square& sum) {
  for (int i = 0; i < used; ++i)
    for (int j = 0; j <= i; ++j) sum[i][j] = 0.0;
  alignas(64) float weighted[kTile];
  for (std::int64_t begin = 0; begin < count; begin += kTile) {
    const std::int64_t n = std::min(kTile, count - begin);
    for (int i = 0; i < used; ++i) {
      const float* ri = rows + i * count + begin;
      for (std::int64_t p = 0; p < n; ++p) weighted[p] = ri[p] * weight[begin + p];
      int j = 0;
      for (; j + 3 <= i; j += 4) {  // four at a time: `weighted` is loaded once for them
        const float* r0 = rows + j * count + begin;
        const float *r1 = r0 + count, *r2 = r1 + count, *r3 = r2 + count;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (std::int64_t p = 0; p < n; ++p) {
          s0 += weighted[p] * r0[p];
          s1 += weighted[p] * r1[p];
          s2 += weighted[p] * r2[p];
          s3 += weighted[p] * r3[p];
        }
        sum[i][j] += s0, sum[i][j + 1] += s1, sum[i][j + 2] += s2, sum[i][j + 3] += s3;
      }
      for (; j <= i; ++j) {
        const float* rj = rows + j * count + begin;
        float s = 0;
        for (std::int64_t p = 0; p < n; ++p) s += weighted[p] * rj[p];
        sum[i][j] += s;
      }
    }
  }
  for (int i = 0; i < used; ++i)
    for (int j = i + 1; j < used; ++j) sum[i][j] = sum[j][i];
}

// In-place Cholesky decomposition of the leading n x n; false if it is not positive definite.
bool cholesky(Square& a, int n) {
  for (int i = 0; i < n; ++i)
    for (int j = 0; j <= i; ++j) {
      double s = a[i][j];
      for (int k = 0; k < j; ++k) s -= a[i][k] * a[j][k];
      if (i == j) {
        if (!(s > 0)) return false;
        a[i][i] = std::sqrt(s);
      } else {
        a[i][j] = s / a[j][j];
      }
    }
  return true;
}

void solve(const Square& l, int n, double* x) {
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < i; ++k) x[i] -= l[i][k] * x[k];
    x[i] /= l[i][i];
  }
  for (int i = n - 1; i >= 0; --i) {
    for (int k = i + 1; k < n; ++k) x[i] -= l[k][i] * x[k];
    x[i] /= l[i][i];
  }
}

double trace(const Square& a, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i][i];
  return sum;
}

class Fit {
 public:
  Fit(const Pixels& pixels, const Settings& settings, const float* integral, Solution& out, Scratch& scratch)
      : pixels_(pixels), settings_(settings), integral_(integral), out_(out), s_(scratch), count_(pixels.count),
        poses_(settings.parameters), map_(pixels.backgrounds), terms_(map_ + 2 + pixels.scatters) {}

  void run(const float* jacobian) {
    std::fill(out_.hessian, out_.hessian + poses_ * poses_, 0.0);
    std::fill(out_.gradient, out_.gradient + poses_, 0.0);
    out_.noise = INFINITY;
    out_.similarity = out_.inliers = out_.contrast = 0.0;
    s_.hold(count_, poses_ + terms_ + 1);
    if (!look()) return;
    for (int round = 0; round < settings_.rounds; ++round) {
      evaluate();
      if (round) shorten();
      if (round || continued_) reweigh();
      if (!solve_terms()) return;
    }
    evaluate();
    if (settings_.rounds) shorten();
    reweigh();
    out_.noise = noise_;
    out_.contrast = out_.coefficient[map_] / spread_;
    compare();
    if (jacobian) solve_pose(jacobian);
  }

 private:
  bool usable(std::int64_t p) const { return integral_[p] > settings_.min_path && pixels_.trust[p] > 0.f; }
  float log_image(std::int64_t p) const { return -std::log(pixels_.counts[p]); }

  // The prediction's mean and spread, first weights and coefficients; false if too little is visible.
  bool look() {
    double sum = 0, squares = 0, weights = 1e-12, level = 0;
    for (std::int64_t p = 0; p < count_; ++p) {
      sum += integral_[p];
      squares += (double)integral_[p] * integral_[p];
      s_.weight[p] = usable(p) ? pixels_.trust[p] : 0.f;
      seen_ += usable(p);
    }
    if (seen_ < 64 || seen_ < count_ / 50) return false;
    const double mean = sum / count_;
    spread_ = (float)std::sqrt(std::max(squares / count_ - mean * mean, 0.0)) + 1e-6f;
    for (std::int64_t p = 0; p < count_; ++p) s_.t[p] = (integral_[p] - (float)mean) / spread_;
    // A map from the previous pose refers to that prediction's mean and spread; the first round corrects it.
    continued_ = out_.started;
    if (!continued_) {
      std::fill(out_.coefficient, out_.coefficient + kMaxTerms, 0.0);
      for (std::int64_t p = 0; p < count_; ++p) {
        level += s_.weight[p] * (log_image(p) - s_.t[p] * spread_);
        weights += s_.weight[p];
      }
      out_.coefficient[0] = level / weights;  // the first background is 1
      out_.coefficient[map_] = spread_;
    }
    return true;
  }

  // Model, share of the primary in it, residual, and the derivatives of the model by the terms.
  void evaluate() {
    float *q = s_.model.data(), *share = s_.share.data(), *scattered = s_.residual.data();
    const float* t = s_.t.data();
    const float a = (float)out_.coefficient[map_], b = (float)out_.coefficient[map_ + 1];
    for (std::int64_t p = 0; p < count_; ++p) q[p] = (a + b * t[p]) * t[p], scattered[p] = 0.f;
    for (int k = 0; k < map_; ++k) add((float)out_.coefficient[k], pixels_.background + k * count_, q);
    for (int k = 0; k < pixels_.scatters; ++k)
      add((float)out_.coefficient[map_ + 2 + k], pixels_.scatter + k * count_, scattered);
    float* all = s_.sorted.data();
    for (std::int64_t p = 0; p < count_; ++p) {
      const float primary = std::exp(-std::min(std::max(q[p], -30.f), 25.f));
      all[p] = primary + scattered[p];
      share[p] = primary / all[p];
    }
    for (std::int64_t p = 0; p < count_; ++p) {
      q[p] = -std::log(all[p]);
      s_.residual[p] = log_image(p) - q[p];
    }
    for (int k = 0; k < map_; ++k) {
      float* row = term(k);
      const float* phi = pixels_.background + k * count_;
      for (std::int64_t p = 0; p < count_; ++p) row[p] = share[p] * phi[p];
    }
    float *linear = term(map_), *square = term(map_ + 1);
    for (std::int64_t p = 0; p < count_; ++p) {
      linear[p] = share[p] * t[p];
      square[p] = linear[p] * t[p];
    }
    for (int k = 0; k < pixels_.scatters; ++k) {
      float* row = term(map_ + 2 + k);
      const float* psi = pixels_.scatter + k * count_;
      for (std::int64_t p = 0; p < count_; ++p) row[p] = -psi[p] / all[p];
    }
    std::copy(s_.residual.begin(), s_.residual.begin() + count_, term(terms_));
  }

  void add(float factor, const float* from, float* to) const {
    for (std::int64_t p = 0; p < count_; ++p) to[p] += factor * from[p];
  }

  // Tukey's weights on residuals relative to each pixel's expected error. Where scatter exceeds the primary rays, its
  // unmodelled part is most of the residual.
  void reweigh() {
    const float doubt = settings_.scatter_error / settings_.model_sigma;
    std::int64_t used = 0;
    for (std::int64_t p = 0; p < count_; ++p) {
      const float scattered = (1.f - s_.share[p]) * doubt, trust = pixels_.trust[p];
      s_.trust[p] = usable(p) ? trust / (1.f + scattered * scattered * trust) : 0.f;
      s_.weight[p] = std::fabs(s_.residual[p]) * std::sqrt(s_.trust[p]);
      s_.sorted[used] = s_.weight[p];
      used += usable(p);
    }
    const auto middle = s_.sorted.begin() + used / 2;
    std::nth_element(s_.sorted.begin(), middle, s_.sorted.begin() + used);
    noise_ = 1.4826f * *middle + 1e-6f;
    const float reach = 1.f / (settings_.tukey * noise_);
    for (std::int64_t p = 0; p < count_; ++p) {
      const float x = s_.weight[p] * reach, keep = std::max(1.f - x * x, 0.f);
      s_.weight[p] = s_.trust[p] * keep * keep;
    }
  }

  double prior_precision(int i) const {
    const double sigma = settings_.prior_sigma[i];
    return sigma > 0 ? std::max((double)noise_ * noise_, 1e-6) / (sigma * sigma) : 0.0;
  }

  // One Gauss-Newton step of the terms. Scatter is never negative: terms that would be are pinned to zero, and the
  // others are solved again (an active set; clamping alone would make all of them wrong).
  bool solve_terms() {
    gram(term(0), terms_ + 1, s_.weight.data(), count_, sums_);
    const double ridge = 1e-9 * trace(sums_, terms_);
    before_ = sums_[terms_][terms_];
    std::copy(out_.coefficient, out_.coefficient + terms_, from_);
    std::fill(pinned_, pinned_ + kMaxTerms, false);
    double step[kMaxTerms];
    for (bool settled = false; !settled;) {
      Square system;
      for (int i = 0; i < terms_; ++i) {
        step[i] = sums_[i][terms_] - prior_precision(i) * out_.coefficient[i];
        for (int j = 0; j < terms_; ++j) system[i][j] = sums_[i][j];
        system[i][i] += ridge + prior_precision(i);
      }
      for (int i = 0; i < terms_; ++i) {
        if (!pinned_[i]) continue;
        for (int j = 0; j < terms_; ++j) {
          if (!pinned_[j]) step[j] += system[j][i] * out_.coefficient[i];  // of its step to none
          system[i][j] = system[j][i] = 0.0;
        }
        system[i][i] = 1.0;
        step[i] = -out_.coefficient[i];
      }
      if (!cholesky(system, terms_)) return false;
      solve(system, terms_, step);
      settled = true;
      for (int i = map_ + 2; i < terms_; ++i) {
        if (!pinned_[i] && out_.coefficient[i] + step[i] < 0.0) pinned_[i] = true, settled = false;
      }
    }
    for (int i = 0; i < terms_; ++i) out_.coefficient[i] += step[i];
    for (int i = map_ + 2; i < terms_; ++i) out_.coefficient[i] = std::clamp(out_.coefficient[i], 0.0, kMostScatter);
    out_.started = 1;
    return true;
  }

  // Halve the last step while it explains much less than before. Where hardly any light is primary, scatter and primary
  // rays otherwise take turns in explaining too much, and come back from it after many rounds or not at all.
  void shorten() {
    const double most = kRises * before_ + kRounding * (double)count_;
    for (int halving = 0; halving < kHalvings && unexplained() > most; ++halving) {
      for (int i = 0; i < terms_; ++i) out_.coefficient[i] = 0.5 * (out_.coefficient[i] + from_[i]);
      for (int i = map_ + 2; i < terms_; ++i) pinned_[i] = pinned_[i] && !(out_.coefficient[i] > 0.0);
      evaluate();
    }
  }

  double unexplained() const {
    double sum = 0;
    for (std::int64_t p = 0; p < count_; ++p) sum += s_.weight[p] * s_.residual[p] * s_.residual[p];
    return sum;
  }

  // Similarity of prediction and image, as it were without photons' noise, after removing the background from both;
  // outliers excluded.
  void compare() {
    float* trusted = s_.sorted.data();
    std::int64_t kept = 0;
    double photons = 0;
    for (std::int64_t p = 0; p < count_; ++p) {
      trusted[p] = s_.weight[p] > 0.f ? s_.trust[p] : 0.f;
      kept += trusted[p] > 0.f;
      if (trusted[p] > 0.f) photons += trusted[p] * (1.f / pixels_.trust[p] - 1.f);
    }
    photons *= (double)settings_.photons * settings_.model_sigma * settings_.model_sigma;
    out_.inliers = (double)kept / (double)seen_;
    float* rows = s_.rows.data();  // the pose's rows are not yet, and these terms no longer, in use
    std::copy(pixels_.background, pixels_.background + map_ * count_, rows);
    std::copy(s_.model.begin(), s_.model.begin() + count_, rows + map_ * count_);
    for (std::int64_t p = 0; p < count_; ++p) rows[(map_ + 1) * count_ + p] = log_image(p);
    gram(rows, map_ + 2, trusted, count_, sums_);
    const double ridge = 1e-9 * trace(sums_, map_);
    double of[2][kMaxTerms], left[2][2];
    for (int i = 0; i < map_; ++i) {
      sums_[i][i] += ridge;
      for (int a = 0; a < 2; ++a) of[a][i] = sums_[map_ + a][i];
    }
    for (int a = 0; a < 2; ++a)
      for (int b = 0; b < 2; ++b) left[a][b] = sums_[map_ + a][map_ + b];
    if (!cholesky(sums_, map_)) return;
    for (int a = 0; a < 2; ++a) {
      double x[kMaxTerms];
      std::copy(of[a], of[a] + map_, x);
      solve(sums_, map_, x);
      for (int b = 0; b < 2; ++b)
        for (int i = 0; i < map_; ++i) left[a][b] -= of[b][i] * x[i];
    }
    const double shown = left[1][1] - std::min(photons, kMostNoise * left[1][1]);
    out_.similarity = std::min(left[0][1] / (std::sqrt(std::max(left[0][0] * shown, 0.0)) + 1e-12), 1.0);
  }

  // Normal equations of the poses, the terms eliminated (Schur complement).
  void solve_pose(const float* jacobian) {
    evaluate();
    const float a = (float)out_.coefficient[map_] / spread_, b = 2.f * (float)out_.coefficient[map_ + 1] / spread_;
    for (int j = 0; j < poses_; ++j) {
      const float scale = 1.f / settings_.pose_scale[j % kPose];
      const float* from = jacobian + j * count_;
      float* to = s_.rows.data() + j * count_;
      for (std::int64_t p = 0; p < count_; ++p) to[p] = from[p] * scale * s_.share[p] * (a + b * s_.t[p]);
    }
    gram(s_.rows.data(), poses_ + terms_ + 1, s_.weight.data(), count_, sums_);
    Square inner;
    double ridge = 0;
    for (int i = 0; i < terms_; ++i) ridge += 1e-9 * sums_[poses_ + i][poses_ + i];
    for (int i = 0; i < terms_; ++i) {
      for (int j = 0; j < terms_; ++j) inner[i][j] = sums_[poses_ + i][poses_ + j];
      inner[i][i] += ridge + prior_precision(i);
    }
    for (int i = 0; i < terms_; ++i) {
      if (!pinned_[i]) continue;  // fixed: it imitates nothing
      for (int j = 0; j < terms_; ++j) inner[i][j] = inner[j][i] = 0.0;
      inner[i][i] = 1.0;
    }
    if (!cholesky(inner, terms_)) return;
    const int residual = poses_ + terms_;
    for (int j = 0; j < poses_; ++j) {
      double imitated[kMaxTerms];  // the part of this derivative that the terms can imitate
      for (int i = 0; i < terms_; ++i) imitated[i] = pinned_[i] ? 0.0 : sums_[poses_ + i][j];
      solve(inner, terms_, imitated);
      out_.gradient[j] = sums_[j][residual];
      for (int i = 0; i < terms_; ++i) out_.gradient[j] -= imitated[i] * sums_[poses_ + i][residual];
      for (int k = 0; k < poses_; ++k) {
        double h = sums_[j][k];
        for (int i = 0; i < terms_; ++i) h -= imitated[i] * sums_[poses_ + i][k];
        out_.hessian[j * poses_ + k] = h;
      }
    }
  }

  float* term(int i) { return s_.rows.data() + (poses_ + i) * count_; }

  static constexpr double kMostScatter = 1.0;  // scattered light is part of the image
  static constexpr double kMostNoise = 0.5;  // share of what an image shows that may be taken for noise
  static constexpr int kHalvings = 4;
  static constexpr double kRises = 1.2;  // what is unexplained may rise a little: priors pull, too
  static constexpr double kRounding = 1e-10;  // of a pixel, squared

  const Pixels& pixels_;
  const Settings& settings_;
  const float* integral_;
  Solution& out_;
  Scratch& s_;
  const std::int64_t count_;
  const int poses_, map_, terms_;
  std::int64_t seen_ = 0;
  bool continued_ = false;
  bool pinned_[kMaxTerms] = {};
  float spread_ = 1.f, noise_ = 0.f;
  double from_[kMaxTerms] = {}, before_ = 0.0;  // coefficients before the last step, and what they left unexplained
  Square sums_;
};

}  // namespace

void fit(const Pixels& pixels, const Settings& settings, const float* integral, const float* jacobian,
         Solution& out) {
  thread_local Scratch scratch;
  Fit(pixels, settings, integral, out, scratch).run(jacobian);
}

}  // namespace navnode::NAVNODE_ISA
