//! Drawing: a plot's frame, and what can stand in it.

use std::fmt::Write;

use super::axis::Axis;
use super::html::escape;

/// A plot with a frame of two axes. Pixels count from the upper left; [`WIDTH`] of them are as wide as the page.
pub(super) struct Plot {
    svg: String,
    height: f64,
    top: f64,
    bottom: f64,
    left: f64,
    right: f64,
    x: Axis,
    y: Axis,
}

impl Plot {
    /// A frame of `height` pixels, with room for names of `left` pixels before the vertical axis.
    pub(super) fn new(title: &str, height: f64, left: f64, x: Axis, y: Axis) -> Self {
        let mut svg = String::new();
        let _ = write!(
            svg,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
            escape(title)
        );
        let mut plot = Self { svg, height, top: 24.0, bottom: height - 44.0, left, right: WIDTH - 24.0, x, y };
        plot.frame();
        plot
    }

    fn frame(&mut self) {
        let (left, right, top, bottom) = (self.left, self.right, self.top, self.bottom);
        let (x, y) = (self.x.clone(), self.y.clone());
        for (value, words) in &y.ticks {
            let at = self.y(*value);
            self.add(format_args!(
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            ));
            self.text(left - 8.0, at + 4.0, "end", words);
        }
        for (value, words) in &x.ticks {
            let at = self.x(*value);
            self.add(format_args!(
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom:.1}\" y2=\"{:.1}\"/>",
                bottom + 4.0
            ));
            self.text(at, bottom + 18.0, "middle", words);
        }
        self.add(format_args!(
            "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>"
        ));
        self.text((left + right) / 2.0, bottom + 36.0, "middle", &x.title);
        self.text(4.0, top - 10.0, "start", &y.title);
    }

    fn x(&self, value: f64) -> f64 {
        self.left + self.x.at(value) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - self.y.at(value) * (self.bottom - self.top)
    }

    fn add(&mut self, markup: std::fmt::Arguments<'_>) {
        // Writing to memory does not fail.
        let _ = self.svg.write_fmt(markup);
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, words: &str) {
        let words = escape(words);
        self.add(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"));
    }

    /// A line through points.
    pub(super) fn line(&mut self, points: &[(f64, f64)], class: &str) {
        let path = self.path(points);
        if !path.is_empty() {
            self.add(format_args!("<path class=\"line {class}\" d=\"{path}\"/>"));
        }
    }

    /// The area between points and the horizontal axis.
    pub(super) fn area(&mut self, points: &[(f64, f64)], class: &str) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let (path, bottom) = (self.path(points), self.bottom);
        let (from, to) = (self.x(first.0), self.x(last.0));
        self.add(format_args!(
            "<path class=\"area {class}\" d=\"{path}L{to:.1} {bottom:.1}L{from:.1} {bottom:.1}Z\"/>"
        ));
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, self.x(*x), self.y(*y));
        }
        path
    }

    /// Points with words that show when one stays on them.
    pub(super) fn dots(&mut self, points: &[(f64, f64, String)], class: &str) {
        for (x, y, words) in points {
            let (x, y, words) = (self.x(*x), self.y(*y), escape(words));
            self.add(format_args!(
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{words}</title></circle>"
            ));
        }
    }

    /// A box from one corner to the other; words show when one stays on it.
    pub(super) fn block(&mut self, from: (f64, f64), to: (f64, f64), class: &str, words: &str) {
        let (x1, x2, y1, y2) = (self.x(from.0), self.x(to.0), self.y(from.1), self.y(to.1));
        let (x, width, y, height) = (x1.min(x2), (x1 - x2).abs(), y1.min(y2), (y1 - y2).abs());
        if width <= 0.0 || height <= 0.0 {
            return;
        }
        // Bars of a histogram are to be told apart where there is room for a gap.
        let width = if width > 4.0 && class.contains("gap") { width - 1.0 } else { width };
        let words = escape(words);
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.2}\"><title>{words}</title></rect>"
        ));
    }

    /// A dashed line at a height, from end to end.
    pub(super) fn level(&mut self, value: f64, class: &str) {
        let (left, right, at) = (self.left, self.right, self.y(value));
        self.add(format_args!(
            "<line class=\"level {class}\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        ));
    }

    /// A horizontal bar in row `row` of `rows`, from one value to another.
    pub(super) fn bar(&mut self, row: usize, rows: usize, from: f64, to: f64, class: &str, words: &str) {
        let (top, height) = self.row(row, rows);
        let (x1, x2) = (self.x(from), self.x(to));
        if x2 <= x1 {
            return;
        }
        let (y, height, words) = (top + height * 0.15, height * 0.7, escape(words));
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x1:.1}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{height:.1}\"><title>{words}</title></rect>",
            x2 - x1
        ));
    }

    /// A mark across a row's bar.
    pub(super) fn mark(&mut self, row: usize, rows: usize, value: f64, class: &str, words: &str) {
        let (top, height) = self.row(row, rows);
        let (x, words) = (self.x(value), escape(words));
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"{:.1}\"><title>{words}</title></rect>",
            x - 1.5,
            top + height * 0.04,
            height * 0.92
        ));
    }

    /// The name of a row, escaped already, before the vertical axis.
    pub(super) fn row_name(&mut self, row: usize, rows: usize, escaped: &str) {
        let (top, height) = self.row(row, rows);
        let (x, y) = (self.left - 8.0, top + height / 2.0 + 4.0);
        self.add(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{escaped}</text>"));
    }

    fn row(&self, row: usize, rows: usize) -> (f64, f64) {
        let height = (self.bottom - self.top) / rows.max(1) as f64;
        (self.top + height * row as f64, height)
    }

    /// Says that there is nothing to see.
    pub(super) fn note(&mut self, words: &str) {
        let (x, y) = ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0);
        self.text(x, y, "middle", words);
    }

    pub(super) fn finish(mut self) -> String {
        debug_assert!(self.height > 0.0);
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// Pixels of a plot from left to right.
pub(super) const WIDTH: f64 = 1040.0;
