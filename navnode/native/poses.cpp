// Arithmetic of single poses, row-major 4x4 matrices of doubles: every pose of every marker passes here, and a call of
// NumPy for sixteen numbers takes longer than all of this.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace {

using Rotation = std::array<std::array<double, 3>, 3>;

Rotation rotation_of(const double* pose) {
  Rotation r;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) r[i][j] = pose[4 * i + j];
  return r;
}

// R^T R.
Rotation gram_of(const Rotation& r) {
  Rotation gram{};
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 3; ++k) gram[i][j] += r[k][i] * r[k][j];
  return gram;
}

double off_identity(const Rotation& gram) {
  double most = 0;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) most = std::max(most, std::fabs(gram[i][j] - (i == j)));
  return most;
}

double determinant(const Rotation& r) {
  return r[0][0] * (r[1][1] * r[2][2] - r[1][2] * r[2][1]) - r[0][1] * (r[1][0] * r[2][2] - r[1][2] * r[2][0]) +
         r[0][2] * (r[1][0] * r[2][1] - r[1][1] * r[2][0]);
}

// out = a b, both with last row 0 0 0 1.
void multiply(const double* a, const double* b, double* out) {
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 4; ++j)
      out[4 * i + j] =
          a[4 * i] * b[j] + a[4 * i + 1] * b[4 + j] + a[4 * i + 2] * b[8 + j] + (j == 3 ? a[4 * i + 3] : 0.0);
  out[12] = out[13] = out[14] = 0.0;
  out[15] = 1.0;
}

void invert(const double* pose, double* out) {
  for (int i = 0; i < 3; ++i) {
    double moved = 0;
    for (int j = 0; j < 3; ++j) {
      out[4 * i + j] = pose[4 * j + i];
      moved -= pose[4 * j + i] * pose[4 * j + 3];
    }
    out[4 * i + 3] = moved;
  }
  out[12] = out[13] = out[14] = 0.0;
  out[15] = 1.0;
}

constexpr double kLastRow = 1e-6;
constexpr double kExact = 1e-15;
constexpr int kMostSteps = 6;

}  // namespace

// The rigid transform nearest to a pose whose rotation is one within `tolerance` (|R^T R - I|, below 0.1), by Newton's
// iteration for the polar decomposition without inverses (Higham, SIAM J. Sci. Stat. Comput. 7, 1986), whose error is
// squared by every step. Returns 0; 1 and writes nothing if the pose is not finite, not rigid, or mirrored.
extern "C" __attribute__((visibility("default"))) int navnode_nearest_rigid(
    const double* pose, double tolerance, double* nearest) {
  for (int i = 0; i < 16; ++i)
    if (!std::isfinite(pose[i])) return 1;
  for (int j = 0; j < 4; ++j)
    if (std::fabs(pose[12 + j] - (j == 3)) >= kLastRow) return 1;
  Rotation r = rotation_of(pose), gram = gram_of(r);
  double off = off_identity(gram);
  if (!(off <= tolerance) || determinant(r) <= 0) return 1;
  for (int step = 0; step < kMostSteps && off > kExact; ++step) {
    Rotation next{};
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j)
        for (int k = 0; k < 3; ++k) next[i][j] += r[i][k] * (1.5 * (k == j) - 0.5 * gram[k][j]);
    r = next;
    gram = gram_of(r);
    const double before = off;
    off = off_identity(gram);
    if (off >= before) break;  // what is left is rounding
  }
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) nearest[4 * i + j] = r[i][j];
    nearest[4 * i + 3] = pose[4 * i + 3];
  }
  nearest[12] = nearest[13] = nearest[14] = 0.0;
  nearest[15] = 1.0;
  return 0;
}

// a_from_e = a_from_b inverse(c_from_b) c_from_d d_from_e, all rigid: the four matrices one behind the other.
extern "C" __attribute__((visibility("default"))) void navnode_carry(const double* chain, double* a_from_e) {
  double b_from_c[16], a_from_c[16], c_from_e[16];
  invert(chain + 16, b_from_c);
  multiply(chain, b_from_c, a_from_c);
  multiply(chain + 32, chain + 48, c_from_e);
  multiply(a_from_c, c_from_e, a_from_e);
}
