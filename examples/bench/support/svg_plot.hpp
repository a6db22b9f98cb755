#pragma once

/// @file
/// Line plots as one SVG file that needs nothing else: no style sheet, no script, no font.

#include "table.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

/// A value and the spread around it.
struct plot_point {
  double x = 0;
  double y = 0;
  double low = 0;
  double high = 0;
};

struct plot_line {
  std::string name;
  std::vector<plot_point> points;
  bool reference = false; ///< a limit: thin, grey, dashed
};

/// Axes are in the same unit for all lines. The x axis is logarithmic, with a tick at every x.
struct plot {
  std::string title, x_title, y_title;
  bool log_y = false; ///< else from 0
  std::vector<plot_line> lines;
};

namespace detail {

/// Values between two ends to pixels between two others.
class plot_axis {
public:
  plot_axis(double low, double high, bool log, double from, double to)
      : log_{log}, low_{scaled(low)}, high_{scaled(high)}, from_{from}, to_{to} {}
  [[nodiscard]] double at(double value) const {
    return from_ + (scaled(value) - low_) / (high_ - low_) * (to_ - from_);
  }

private:
  [[nodiscard]] double scaled(double value) const {
    return log_ ? std::log10(std::max(value, 1e-9)) : value;
  }

  bool log_;
  double low_, high_, from_, to_;
};

[[nodiscard]] inline std::string xml_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

/// As few digits as tell 0.5, 20 and 5000 apart.
[[nodiscard]] inline std::string tick_text(double value) {
  return fixed(value, value != std::floor(value) ? 1 : 0);
}

/// 1, 2 and 5 times powers of ten, or multiples of such a number.
[[nodiscard]] inline std::vector<double> ticks_between(double low, double high, bool log) {
  std::vector<double> out;
  if (log) {
    for (double ten = std::pow(10, std::floor(std::log10(low))); ten <= high; ten *= 10) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        if (digit * ten >= low && digit * ten <= high) out.push_back(digit * ten);
      }
    }
    return out;
  }
  const double ten = std::pow(10, std::floor(std::log10((high - low) / 5)));
  double step = ten;
  for (const double digit : {2.0, 5.0, 10.0}) {
    if ((high - low) / step > 8) step = digit * ten;
  }
  for (double at = low; at <= high * 1.0001; at += step) out.push_back(at);
  return out;
}

/// Shapes, one behind the other.
class svg_shapes {
public:
  static constexpr const char* grey = "#888888";
  /// Colours that most eyes tell apart; then the same ones dashed.
  [[nodiscard]] static std::string stroke(std::size_t index, bool reference) {
    static constexpr std::array colours{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                        "#000000", "#e69f00", "#56b4e9", "#7f3f98"};
    if (reference)
      return std::string{"stroke=\""} + grey + "\" stroke-width=\"1.5\" stroke-dasharray=\"2 3\"";
    std::string out =
        std::string{"stroke=\""} + colours[index % colours.size()] + "\" stroke-width=\"2\"";
    if (index >= colours.size()) out += " stroke-dasharray=\"7 3\"";
    return out;
  }

  void line(double x1, double y1, double x2, double y2, const std::string& look) {
    text_ += "<line" + number("x1", x1) + number("y1", y1) + number("x2", x2) + number("y2", y2) +
             " " + look + "/>\n";
  }
  /// Nothing is clipped: the axes hold all points.
  void path(const std::vector<std::array<double, 2>>& points, const std::string& look) {
    text_ += "<polyline fill=\"none\" " + look + " points=\"";
    for (const auto& [x, y] : points) text_ += fixed(x, 1) + "," + fixed(y, 1) + " ";
    text_ += "\"/>\n";
  }
  void words(double x, double y, std::string_view what, const char* anchor, const char* more = "") {
    text_ += "<text" + number("x", x) + number("y", y) + " text-anchor=\"" + anchor + "\" " + more +
             ">" + xml_escaped(what) + "</text>\n";
  }
  [[nodiscard]] const std::string& text() const { return text_; }

private:
  [[nodiscard]] static std::string number(const char* name, double value) {
    return std::string{" "} + name + "=\"" + fixed(value, 1) + "\"";
  }

  std::string text_;
};

/// A page of plots in rows; the lines of a row share one legend, at its right end.
class svg_page {
public:
  static constexpr double plot_width = 430, plot_height = 300, legend_width = 300;
  static constexpr double left = 62, right = 14, top = 34, bottom = 46, head = 40;

  /// Draws one row. A plot without points stays empty.
  void add(const std::vector<plot>& row) {
    const double y = head + static_cast<double>(rows_) * plot_height;
    names_.clear();
    for (std::size_t i = 0; i < row.size(); ++i)
      draw(row[i], static_cast<double>(i) * plot_width, y);
    const double x = static_cast<double>(row.size()) * plot_width + 8;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const double at = y + top + 10 + static_cast<double>(i) * 18;
      shapes_.line(x, at - 4, x + 26, at - 4, svg_shapes::stroke(i, is_reference_[i]));
      shapes_.words(x + 32, at, names_[i], "start");
    }
    ++rows_;
    width_ = std::max(width_, x + legend_width);
  }
  [[nodiscard]] std::string text(const std::string& title) const {
    const std::string wide = fixed(std::max(width_, legend_width), 0);
    const std::string high = fixed(head + static_cast<double>(rows_) * plot_height + 8, 0);
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + wide + "\" height=\"" + high +
           "\" viewBox=\"0 0 " + wide + " " + high +
           "\" font-family=\"sans-serif\" font-size=\"12\">\n<title>" + xml_escaped(title) +
           "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
           "<text x=\"12\" y=\"24\" font-size=\"15\">" +
           xml_escaped(title) + "</text>\n" + shapes_.text() + "</svg>\n";
  }

private:
  void draw(const plot& what, double x, double y) {
    double x_low = std::numeric_limits<double>::max();
    double y_low = x_low, x_high = 0, y_high = 0;
    std::vector<double> xs;
    for (const plot_line& line : what.lines) {
      for (const plot_point& p : line.points) {
        xs.push_back(p.x);
        x_low = std::min(x_low, p.x);
        x_high = std::max(x_high, p.x);
        y_low = std::min({y_low, p.y, p.low});
        y_high = std::max({y_high, p.y, p.high});
      }
    }
    if (xs.empty() || y_high <= 0 || x_low <= 0) return;
    y_low = what.log_y ? std::max(y_low, y_high * 1e-6) / 1.15 : 0;
    const double plot_right = x + plot_width - right, plot_bottom = y + plot_height - bottom;
    const plot_axis across{x_low / 1.3, x_high * 1.3, true, x + left, plot_right};
    const plot_axis up{y_low, y_high * 1.1, what.log_y, plot_bottom, y + top};

    std::sort(xs.begin(), xs.end());
    xs.erase(std::unique(xs.begin(), xs.end()), xs.end());
    double last = -100; // no number over another
    for (const double tick : xs) {
      const double at = across.at(tick);
      shapes_.line(at, y + top, at, plot_bottom, faint);
      if (at - last < 26) continue;
      shapes_.words(last = at, plot_bottom + 16, tick_text(tick), "middle");
    }
    for (const double tick : ticks_between(y_low, y_high * 1.1, what.log_y)) {
      shapes_.line(x + left, up.at(tick), plot_right, up.at(tick), faint);
      shapes_.words(x + left - 6, up.at(tick) + 4, tick_text(tick), "end");
    }
    shapes_.line(x + left, y + top, x + left, plot_bottom, dark);
    shapes_.line(x + left, plot_bottom, plot_right, plot_bottom, dark);
    shapes_.words((x + left + plot_right) / 2, y + top - 10, what.title, "middle");
    shapes_.words((x + left + plot_right) / 2, plot_bottom + 34, what.x_title, "middle");
    const double middle = (y + top + plot_bottom) / 2;
    const std::string turned =
        "transform=\"rotate(-90 " + fixed(x + 14, 1) + " " + fixed(middle, 1) + ")\"";
    shapes_.words(x + 14, middle, what.y_title, "middle", turned.c_str());
    for (const plot_line& line : what.lines) draw(line, across, up);
  }
  void draw(const plot_line& line, const plot_axis& across, const plot_axis& up) {
    const std::string look = svg_shapes::stroke(index_of(line), line.reference);
    std::vector<std::array<double, 2>> points;
    for (const plot_point& p : line.points) {
      const double x = across.at(p.x);
      points.push_back({x, up.at(p.y)});
      if (p.high > p.low) shapes_.line(x, up.at(p.low), x, up.at(p.high), look);
      if (!line.reference) shapes_.line(x - 3, up.at(p.y), x + 3, up.at(p.y), look);
    }
    shapes_.path(points, look);
  }
  /// The same name has the same look in all plots of a row.
  [[nodiscard]] std::size_t index_of(const plot_line& line) {
    const auto at = std::find(names_.begin(), names_.end(), line.name);
    if (at != names_.end()) return static_cast<std::size_t>(at - names_.begin());
    if (names_.empty()) is_reference_.clear();
    names_.push_back(line.name);
    is_reference_.push_back(line.reference);
    return names_.size() - 1;
  }

  static constexpr const char* faint = "stroke=\"#e4e4e4\" stroke-width=\"1\"";
  static constexpr const char* dark = "stroke=\"#444444\" stroke-width=\"1\"";

  svg_shapes shapes_;
  std::vector<std::string> names_; // of the row that is drawn
  std::vector<bool> is_reference_;
  std::size_t rows_ = 0;
  double width_ = 0;
};

} // namespace detail

/// All rows of plots as the text of an SVG file. Plots of a row share a legend: the same name is
/// the same method.
[[nodiscard]] inline std::string svg_of(const std::string& title,
                                        const std::vector<std::vector<plot>>& rows) {
  detail::svg_page page;
  for (const std::vector<plot>& row : rows) page.add(row);
  return page.text(title);
}

} // namespace bench
