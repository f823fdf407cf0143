#include "plan/time_model.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace emoe {
namespace {

constexpr char kGpu[] = "cuda";

// y = first · x1 + second · x2.
struct Rates {
  double first = 0;
  double second = 0;
};

struct Point {
  double x1 = 0;
  double x2 = 0;
  double y = 0;
};

// One rate alone, by the relative errors: x divided by y is to be 1.
double single_rate(std::span<const Point> points, double Point::*x) {
  double sum = 0;
  double squares = 0;
  for (const Point& p : points) {
    sum += p.*x / p.y;
    squares += p.*x * p.*x / (p.y * p.y);
  }
  return squares > 0 ? sum / squares : 0;
}

double squared_error(std::span<const Point> points, const Rates& rates) {
  double error = 0;
  for (const Point& p : points) {
    const double off = (rates.first * p.x1 + rates.second * p.x2) / p.y - 1;
    error += off * off;
  }
  return error;
}

// Least squares of the relative errors with rates that are not negative: the solution of both at
// once, or where it has a negative one the better of the two alone.
Rates fit(std::span<const Point> points) {
  double a11 = 0;
  double a12 = 0;
  double a22 = 0;
  double b1 = 0;
  double b2 = 0;
  for (const Point& p : points) {
    const double u = p.x1 / p.y;
    const double v = p.x2 / p.y;
    a11 += u * u;
    a12 += u * v;
    a22 += v * v;
    b1 += u;
    b2 += v;
  }
  const double determinant = a11 * a22 - a12 * a12;
  // Runs of one size alone cannot tell the two apart.
  if (determinant > 1e-6 * a11 * a22) {
    const Rates both{(b1 * a22 - b2 * a12) / determinant, (a11 * b2 - a12 * b1) / determinant};
    if (both.first >= 0 && both.second >= 0) return both;
  }
  const Rates second{0, single_rate(points, &Point::x2)};
  const Rates first{single_rate(points, &Point::x1), 0};
  return squared_error(points, first) < squared_error(points, second) ? first : second;
}

constexpr double kShortest = 1e-3;  // seconds: a run took some time

double estimate(std::span<const FinishedRun> finished, const RunSize& wanted) {
  std::vector<Point> steps;
  std::vector<Point> rest;
  for (const FinishedRun& run : finished) {
    steps.push_back(
        {run.size.steps, run.size.flops_per_rank, std::max(run.step_seconds, kShortest)});
    rest.push_back({1, run.size.weight_bytes, std::max(run.other_seconds, kShortest)});
  }
  const Rates of_steps = fit(steps);
  const Rates of_rest = fit(rest);
  return of_steps.first * wanted.steps + of_steps.second * wanted.flops_per_rank + of_rest.first +
         of_rest.second * wanted.weight_bytes;
}

double error_on(std::span<const FinishedRun> finished) {
  double sum = 0;
  for (size_t i = 0; i < finished.size(); ++i) {
    std::vector<FinishedRun> others(finished.begin(), finished.end());
    if (finished.size() >= 3) others.erase(others.begin() + static_cast<ptrdiff_t>(i));
    const double actual = std::max(finished[i].step_seconds + finished[i].other_seconds, kShortest);
    sum += std::abs(estimate(others, finished[i].size) - actual) / actual;
  }
  return sum / static_cast<double>(finished.size());
}

}  // namespace

std::optional<TimeEstimate> estimate_time(const std::vector<FinishedRun>& finished,
                                          const RunSize& wanted) {
  if (finished.empty()) return std::nullopt;
  const auto count = std::min(std::ssize(finished), static_cast<std::ptrdiff_t>(kLearnedRuns));
  const std::span<const FinishedRun> newest(finished.end() - count, finished.end());
  return TimeEstimate{
      .seconds = estimate(newest, wanted), .relative_error = error_on(newest), .runs = count};
}

std::string gpu_kind(const std::string& name) {
  return name.empty() ? kGpu : kGpu + (" " + name);
}

bool is_gpu_kind(const std::string& kind) {
  return kind.starts_with(kGpu);
}

std::string machine_kind(const std::string& processor, int threads, const std::string& dtype) {
  return processor + ", " + std::to_string(threads) + (threads == 1 ? " thread, " : " threads, ") +
         dtype;
}

}  // namespace emoe
