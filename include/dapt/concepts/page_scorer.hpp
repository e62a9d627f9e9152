// What a page scorer must provide: a number for each page that says how much it is of the domain.
#pragma once

#include <concepts>
#include <span>
#include <string_view>
#include <vector>

#include <dapt/core/page.hpp>

namespace dapt {

/// PageScorer. Given `const T scorer`:
///
/// | expression            | returns               | meaning                                                                     |
/// |-----------------------|-----------------------|-----------------------------------------------------------------------------|
/// | `T::name`             | string_view           | what to set FilterOptions::scorer to, which the filter's summary shows      |
/// | `scorer.score(pages)` | `std::vector<double>` | one finite score a page, larger is more of the domain; a page's score does not depend on its neighbours; throws dapt::Error naming work and page where it cannot score; `pages` is not empty |
///
/// `score_pages(scorer)` keeps a copy of the scorer.
template <class T>
concept PageScorer = requires(const T& scorer, std::span<const Page> pages) {
  { T::name } -> std::convertible_to<std::string_view>;
  { scorer.score(pages) } -> std::same_as<std::vector<double>>;
};

template <class T>
consteval bool check_page_scorer() {
  static_assert(requires { { T::name } -> std::convertible_to<std::string_view>; },
                "dapt::PageScorer [name]: add  static constexpr std::string_view name = \"my_scorer\";");
  static_assert(requires(const T& s, std::span<const Page> pages) { { s.score(pages) } -> std::same_as<std::vector<double>>; },
                "dapt::PageScorer [score]: add  std::vector<double> score(std::span<const dapt::Page> pages) const;");
  return PageScorer<T>;
}

}  // namespace dapt
