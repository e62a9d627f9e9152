// Writes the report of the example comparison, which report_page_test.py reads in headless Chromium: dapt_write_example_report FOLDER
#include <iostream>

#include <dapt/report/report.hpp>

#include "report/example_comparison.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: dapt_write_example_report FOLDER\n";
    return 2;
  }
  dapt::ComparisonResult result = dapt::testing_support::example_comparison();
  for (std::size_t i : {0, 3})
    for (std::int64_t step : {40, 80, 120}) result.settings[i].evaluations.push_back({.step = step, .values = {{"qa_exact", 0.1 + static_cast<double>(i * 50 + step) / 1000}}, .checksums = {}});
  dapt::write_report(argv[1], result, dapt::testing_support::example_options());
}
