// Writes the report of the example comparison, which report_page_test.py reads in headless Chromium: dapt_write_example_report FOLDER
#include <iostream>

#include <dapt/report/report.hpp>

#include "report/example_comparison.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: dapt_write_example_report FOLDER\n";
    return 2;
  }
  dapt::write_report(argv[1], dapt::testing_support::example_comparison(), dapt::testing_support::example_options());
}
