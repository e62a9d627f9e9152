// All files of a comparison's report at once: report.html, report.md, settings.csv, steps.csv, questions.csv.
#pragma once

#include <filesystem>

#include <dapt/report/csv.hpp>
#include <dapt/report/html.hpp>
#include <dapt/report/markdown.hpp>

namespace dapt {

/// Makes `folder` where it is missing. Throws dapt::Error that names what could not be written.
inline void write_report(const std::filesystem::path& folder, const ComparisonResult& result, const ReportOptions& options = {}) {
  write_html_report(folder / "report.html", result, options);
  write_markdown_report(folder / "report.md", result, options);
  write_csv_reports(folder, result, options);
}

}  // namespace dapt
