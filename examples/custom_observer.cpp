// An own observer: any type with `void observe(const dapt::StepRecord&)`. This one remembers the best loss and when it was reached.
// Run: custom_observer          (prints what it saw of a made-up run; a trainer calls observe() the same way)
#include <cstdio>
#include <limits>

#include <dapt/concepts/observer.hpp>
#include <dapt/report/progress_line.hpp>

// [observer]
class BestLoss {
 public:
  void observe(const dapt::StepRecord& record) {
    if (record.skipped || !(record.loss < loss_)) return;  // written so that NaN is never the best
    loss_ = record.loss;
    step_ = record.step;
  }
  double loss() const { return loss_; }
  std::int64_t step() const { return step_; }

 private:
  double loss_ = std::numeric_limits<double>::infinity();
  std::int64_t step_ = 0;
};
static_assert(dapt::check_observer<BestLoss>());
// [observer]

int main() {
  BestLoss best;
  dapt::ProgressLine progress({.what = "made-up run"});
  const double losses[] = {3.2, 2.9, std::numeric_limits<double>::quiet_NaN(), 2.7, 2.8};
  for (dapt::StepRecord record; const double loss : losses) {
    record.step += 1;
    record.loss = loss;
    record.fraction = static_cast<double>(record.step) / 5;
    best.observe(record);  // trainer.train(stream, best, progress) does this
    progress.observe(record);
  }
  progress.finish();
  std::printf("best loss %.1f at step %lld\n", best.loss(), static_cast<long long>(best.step()));
  return best.step() == 4 ? 0 : 1;
}
