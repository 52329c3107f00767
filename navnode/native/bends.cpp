// How far a marker's way bends from straight lines: every pose of two markers is judged by it, and a call of NumPy for
// twelve numbers takes longer than all of this.
#include <algorithm>
#include <cmath>

namespace {

constexpr int kPoints = 4, kSize = 3 * kPoints;

struct Bend {
  double off_mm;        // the newest pose from the line
  double explained_mm;  // what acceleration explains of it
  double noise;         // its noise, as a multiple of that of three single poses
};

// Length of the longest of the offsets between points.
double farthest(const double* a, const double* b) {
  double most = 0;
  for (int p = 0; p < kSize; p += 3) {
    double squared = 0;
    for (int axis = 0; axis < 3; ++axis) squared += (a[p + axis] - b[p + axis]) * (a[p + axis] - b[p + axis]);
    most = std::max(most, squared);
  }
  return std::sqrt(most);
}

// How far the last of three poses, or means of so many, lies from the line through the others.
//
// On a way x(t) with |x''| <= a that is at most a h (h + k) / 2, where h and k are the times between them: divided
// differences are means of derivatives. Means of equal spans of a way have no more acceleration than it has.
Bend bend(const double (&times_s)[3], const double* const (&points_mm)[3], int poses, double acceleration) {
  const double step_s = times_s[2] - times_s[1], earlier_s = std::max(times_s[1] - times_s[0], 1e-6);
  const double ahead = step_s / earlier_s;
  double expected_mm[kSize];
  for (int i = 0; i < kSize; ++i)
    expected_mm[i] = points_mm[1][i] + ahead * (points_mm[1][i] - points_mm[0][i]);
  return {farthest(points_mm[2], expected_mm), 0.5 * acceleration * step_s * (step_s + earlier_s),
          std::sqrt((1 + (1 + ahead) * (1 + ahead) + ahead * ahead) / (6 * poses))};
}

// How far the last pose lies from the straight line through those before it, by least squares.
Bend off_line(const double* times_s, const double* points_mm, int before, double acceleration) {
  double middle_s = 0, spread = 0;
  for (int i = 0; i < before; ++i) middle_s += (times_s[i] - times_s[before]) / before;
  for (int i = 0; i < before; ++i) {
    const double off_s = times_s[i] - times_s[before] - middle_s;
    spread += off_s * off_s;
  }
  double on_line_mm[kSize] = {}, lever_s2 = 0, weights = 0;
  for (int i = 0; i < before; ++i) {
    const double ago_s = times_s[i] - times_s[before];
    const double weight = 1.0 / before - (ago_s - middle_s) * middle_s / std::max(spread, 1e-12);
    for (int k = 0; k < kSize; ++k) on_line_mm[k] += weight * points_mm[kSize * i + k];
    lever_s2 += std::fabs(weight) * ago_s * ago_s;
    weights += weight * weight;
  }
  return {farthest(points_mm + kSize * before, on_line_mm), 0.5 * acceleration * lever_s2, std::sqrt((1 + weights) / 6)};
}

}  // namespace

// Bends at the newest of `count` >= 2 poses (times; four points of each), three numbers each; returns how many. The
// first is of the pose before and the newest alone. Then, if there are so many poses: of three; of means over three spans
// of time for each of `horizons` (six numbers each: how long ago the spans begin and end), of which there must be poses;
// and off the line through `line` poses. `period_s`: two poses that are closer than half of it make no line.
extern "C" __attribute__((visibility("default"))) int navnode_bends(
    const double* times_s, const double* points_mm, int count, double period_s, double acceleration,
    const double* spans_s, int horizons, int line, double* found) {
  Bend* next = reinterpret_cast<Bend*>(found);
  const int newest = count - 1;
  const double* at_mm = points_mm + kSize * newest;
  const double now_s = times_s[newest], elapsed_s = now_s - times_s[newest - 1];
  *next++ = {farthest(at_mm, at_mm - kSize), 0.5 * acceleration * elapsed_s * elapsed_s, 1.0};
  if (count > 2) {
    int first = newest - 2;  // a line through two of one moment leads anywhere
    while (first > std::max(0, newest - 1 - line) && times_s[newest - 1] - times_s[first] < period_s / 2) --first;
    *next++ = bend({times_s[first], times_s[newest - 1], now_s}, {points_mm + kSize * first, at_mm - kSize, at_mm}, 1,
                   acceleration);
  }
  for (int horizon = 0; horizon < horizons; ++horizon) {
    int starts[3], stops[3], fewest = count;
    for (int k = 0; k < 3; ++k) {
      const double* span_s = spans_s + 6 * horizon + 2 * k;
      stops[k] = static_cast<int>(std::upper_bound(times_s, times_s + count, now_s - span_s[1]) - times_s);
      starts[k] = static_cast<int>(std::upper_bound(times_s, times_s + count, now_s - span_s[0]) - times_s);
      if (k == 0 && starts[0] == 0) fewest = 0;  // the way is not known for as long
      starts[k] = std::min(starts[k], stops[k] - 1);
      if (starts[k] < 0 || (k > 0 && stops[k - 1] > starts[k])) fewest = 0;
      fewest = std::min(fewest, stops[k] - starts[k]);
    }
    if (fewest < 1) continue;
    double mean_s[3] = {}, mean_mm[3][kSize] = {};
    for (int k = 0; k < 3; ++k) {
      const double share = 1.0 / (stops[k] - starts[k]);
      for (int i = starts[k]; i < stops[k]; ++i) {
        mean_s[k] += share * (times_s[i] - now_s);
        for (int p = 0; p < kSize; ++p) mean_mm[k][p] += share * points_mm[kSize * i + p];
      }
    }
    *next++ = bend(mean_s, {mean_mm[0], mean_mm[1], mean_mm[2]}, fewest, acceleration);
  }
  if (count > line)
    *next++ = off_line(times_s + newest - line, points_mm + kSize * (newest - line), line, acceleration);
  return static_cast<int>(next - reinterpret_cast<Bend*>(found));
}
