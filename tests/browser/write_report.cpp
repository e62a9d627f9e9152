// Writes the report of the example comparison, which check_report.py reads in headless Chromium: write_report FILE
#include <iostream>

#include <dapt/report/html.hpp>

#include "report/example_comparison.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: write_report FILE\n";
    return 2;
  }
  dapt::write_html_report(argv[1], dapt::testing_support::example_comparison(), dapt::testing_support::example_options());
}
